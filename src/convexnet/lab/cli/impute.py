"""The subcommand `impute`: its options; `show_imputed.py` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from convexnet.choices import SolverName
from convexnet.lab.cli.choices import SOLVERS
from convexnet.lab.cli.terminal import Allow, TimeLimit, Tol, choice, refuses_in_words, stops_cleanly


def impute(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A network that `convexnet.save` wrote.")
    ],
    numbers: Annotated[
        Path,
        typer.Argument(
            metavar="NUMBERS",
            exists=True,
            dir_okay=False,
            help="Samples with gaps, one a row: a .csv file with empty cells or nan, or a .npy file with nan.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            dir_okay=False,
            help="Write the filled samples here: .csv or .npy, or .npz with x, value, lower_bound and converged.",
        ),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A .csv or .npy file, 1 where a number is given and 0 where it is missing: one row for all samples, "
            "or one for each. Without it, a number is missing where it is nan.",
            show_default=False,
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LO,HI|FILE",
            help="Bounds of all coordinates; repeated, of each coordinate in order; or a .csv or .npy file with a row "
            "LO,HI for each. Without it, what is missing may be any number.",
            show_default=False,
        ),
    ] = None,
    tol: Tol = 1e-6,
    solver: Annotated[
        str,
        choice(SOLVERS, help="Which solver."),
    ] = "auto",
    output: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX|CLASS",
            help="Which of several outputs is the energy: its index from 0, or the name of its class.",
            show_default=False,
        ),
    ] = None,
    time_limit: TimeLimit = None,
    allow: Allow = None,
) -> None:
    """Fill in what is missing of samples, so that a saved convex network is least; and prove how good that is.

    Exit status: 0 every sample proved to the tolerance; 1 some are not, or the network is not certified convex; 2 wrong
    usage.

    Examples: convexnet impute energy.safetensors samples.csv --out filled.csv --box 0,1

    convexnet impute energy.safetensors faces.npy --mask left-half.npy --out filled.npz --box 0,1
    """
    with stops_cleanly("nothing was written."):
        from rich.console import Console

        from convexnet.lab.cli.show_imputed import imputed, show, write_filled

        with refuses_in_words():
            solution, missing = imputed(
                checkpoint,
                numbers,
                out,
                mask=mask,
                box=box or [],
                tol=tol,
                solver=cast(SolverName, solver),
                time_limit=time_limit,
                allow=allow or (),
                output=output,
            )
            write_filled(solution, out)
        show(solution, missing, out, Console(highlight=False))
    raise typer.Exit(0 if bool(solution.converged.all()) else 1)

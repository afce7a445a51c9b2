"""The subcommand `minimise`: its options; `show_minimum.py` does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from convexnet.choices import SolverName
from convexnet.lab.cli.choices import SOLVERS
from convexnet.lab.cli.terminal import Allow, TimeLimit, Tol, choice, refuses_in_words, stops_cleanly
from convexnet.lab.errors import UsageError


def minimise(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A network that `convexnet.save` wrote.")
    ],
    box: Annotated[
        list[str],
        typer.Option(
            metavar="LO,HI|FILE",
            help="Bounds of all coordinates; repeated, of each coordinate in order. inf and -inf leave a side open. "
            "Or a .csv or .npy file with a row LO,HI for each coordinate.",
        ),
    ],
    fix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INDEX=VALUE|FILE",
            help="Coordinates that are given, and not minimised over: 3=0.5, or 0,4,2=0.5 by the indices of an image; "
            "may be repeated. Or a .csv or .npy file of numbers, nan where a coordinate is free: one row for all "
            "samples, or one for each.",
            show_default=False,
        ),
    ] = None,
    given: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The other inputs, one sample a row: .csv or .npy for one of them, .npz for several in the order of "
            "their names. May be repeated.",
            show_default=False,
        ),
    ] = None,
    tol: Tol = 1e-6,
    solver: Annotated[
        str,
        choice(SOLVERS, help="Which solver."),
    ] = "auto",
    wrt: Annotated[int, typer.Option(help="Index of the input to minimise over; -1 is the last.")] = -1,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX|CLASS",
            help="Which of several outputs, such as a classifier's: its index from 0, or the name of its class.",
            show_default=False,
        ),
    ] = None,
    time_limit: TimeLimit = None,
    allow: Allow = None,
    out: Annotated[
        Path | None, typer.Option(help="Write x, value, lower_bound, converged to this .npz.", dir_okay=False)
    ] = None,
) -> None:
    """Minimise a saved network over one of its inputs, and prove how good the minimum is.

    Exit status: 0 every sample proved to the tolerance; 1 some are not, or the network is not certified convex; 2 wrong
    usage.

    Examples: convexnet minimise network.safetensors --box -1,1

    convexnet minimise network.safetensors --box 0,1 --box -2,2 --given samples.csv

    convexnet minimise network.safetensors --box 0,1 --fix 0=0.5 --fix 3=1
    """
    with stops_cleanly("nothing was written."):
        from rich.console import Console

        from convexnet.lab.cli.show_minimum import minimised, show, written

        with refuses_in_words():
            if out is not None and not out.parent.is_dir():
                raise UsageError(f"--out {out}: there is no folder {out.parent}")
            solution = minimised(
                checkpoint,
                box,
                given or [],
                fix=fix or [],
                tol=tol,
                solver=cast(SolverName, solver),
                wrt=wrt,
                time_limit=time_limit,
                allow=allow or (),
                output=output,
            )
        show(solution, Console(highlight=False))
        if out is not None:
            written(solution, out)
    raise typer.Exit(0 if bool(solution.converged.all()) else 1)

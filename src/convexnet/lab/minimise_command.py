"""The subcommand `minimise`: the least value of a saved network, from the command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import convexnet as cx
from convexnet.lab.terminal import refuse, stops_cleanly
from convexnet.lab.user_model import UsageError, limits_of
from convexnet.memory import example_of
from convexnet.solve.choose import NAMES

SHOWN = 10
"""Samples in the table; all of them go into the file of --out."""

WIDE = 6
"""Coordinates of x in the table."""


def minimise(
    checkpoint: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A network that `convexnet.save` wrote.")
    ],
    box: Annotated[str, typer.Option(help="Bounds of every coordinate, LO,HI; inf and -inf leave a side open.")],
    given: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The other inputs: .npy, .csv for one of them, .npz for several in the order of their names.",
            show_default=False,
        ),
    ] = None,
    tol: Annotated[float, typer.Option(help="Relative gap to prove.")] = 1e-6,
    solver: Annotated[str, typer.Option(metavar="|".join(NAMES), help="Which solver.")] = "auto",
    wrt: Annotated[int, typer.Option(help="Which input is minimised over; -1 is the last.")] = -1,
    time_limit: Annotated[float | None, typer.Option(help="In seconds.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write x, value, lower_bound, converged to this .npz.", dir_okay=False)
    ] = None,
) -> None:
    """Minimise a saved network over one of its inputs, and prove how good the minimum is.

    Exit status: 0 every sample proved to the tolerance; 1 some are not, or the network is not certified convex; 2 wrong
    usage.

    Example: convexnet minimise network.safetensors --box -1,1
    """
    with stops_cleanly("nothing was written."):
        try:
            limits = limits_of(box)
            network = loaded(checkpoint)
            others = read_given(given)
            index = wrt % (len(others) + 1)
            example = example_of(network)
            if len(example) != len(others) + 1:
                raise UsageError(
                    f"the network takes {len(example)} inputs: --given must hold {len(example) - 1} of them, not "
                    f"{len(others)}"
                )
            home = example[index].dtype
            solution = cx.minimise(
                network,
                cx.Box(*limits, shape=tuple(example[index].shape[1:])),
                given=tuple(tensor.to(home) for tensor in others) or None,
                tol=tol,
                solver=solver,
                time_limit=time_limit,
                wrt=wrt,
            )
        except UsageError as error:
            raise refuse(str(error)) from None
        except cx.NotCertified as error:
            print(f"convexnet: {error}")
            raise typer.Exit(1) from None
        except (cx.NotTraceable, ValueError, TypeError, ImportError) as error:
            raise refuse(str(error)) from None
        show(solution, Console(highlight=False))
        if out is not None:
            written(solution, out)
    raise typer.Exit(0 if bool(solution.converged.all()) else 1)


def loaded(path: Path) -> nn.Module:
    try:
        return cx.load(path).requires_grad_(False)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be loaded: {error}") from None


def read_given(path: Path | None) -> list[Tensor]:
    """The other inputs from a file."""
    if path is None:
        return []
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = [file[name] for name in sorted(file.files)]
        elif path.suffix == ".npy":
            arrays = [np.load(path, allow_pickle=False)]
        elif path.suffix == ".csv":
            arrays = [np.loadtxt(path, delimiter=",", ndmin=2)]
        else:
            raise UsageError(f"--given is a .npy, .npz or .csv file, not {path.name}")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as numbers: {error}") from None
    return [torch.as_tensor(array) for array in arrays]


def show(solution: cx.Solution, console: Console) -> None:
    table = Table("sample", "value", "lower bound", "gap", "proved", "x")
    for i in range(min(SHOWN, len(solution.value))):
        flat = solution.x[i].flatten().tolist()
        x = " ".join(f"{number:.4g}" for number in flat[:WIDE]) + (" ..." if len(flat) > WIDE else "")
        numbers = [f"{float(part[i]):.8g}" for part in (solution.value, solution.lower_bound)]
        table.add_row(str(i), *numbers, f"{float(solution.gap[i]):.2g}", "yes" if solution.converged[i] else "no", x)
    console.print(table)
    if len(solution.value) > SHOWN:
        console.print(f"... and {len(solution.value) - SHOWN} more samples")
    worst = float(solution.gap.max())
    console.print(f"{solution.message}" + ("" if math.isinf(worst) else f"; largest gap {worst:.2g}"))


def written(solution: cx.Solution, path: Path) -> None:
    """The solution as arrays, written to a temporary name first."""
    draft = path.with_name(f".{path.name}.part")
    arrays = {name: getattr(solution, name).numpy() for name in ("x", "value", "lower_bound", "converged")}
    try:
        with draft.open("wb") as file:
            np.savez(file, **arrays)
        draft.replace(path)
    except OSError as error:
        raise refuse(f"{path} cannot be written: {error}") from None
    finally:
        draft.unlink(missing_ok=True)

"""Fill in samples for the subcommand `impute`: from files to a solution, and to a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

import convexnet as cx
from convexnet.choices import SolverName
from convexnet.lab.cli.number_files import ENDINGS, arrays_of
from convexnet.lab.cli.show_minimum import box_of, one_output, written
from convexnet.lab.errors import UsageError
from convexnet.lab.models.saved import example_in, network_of


def imputed(
    checkpoint: Path,
    numbers: Path,
    out: Path,
    *,
    mask: Path | None,
    box: Sequence[str],
    tol: float,
    solver: SolverName,
    time_limit: float | None,
    allow: Sequence[str] = (),
    output: str | None = None,
) -> tuple[cx.Solution, Tensor]:
    """The samples of a file, filled in, and how many numbers each lacked, (B,).

    Raises:
        UsageError: the files do not fit the network, or nothing could be written.
    """
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"--out is a .npy, .npz or .csv file, not {out.name}")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    network = network_of(checkpoint, allow)
    remedy = "save it after cx.constrain(network, example), which records it, or use cx.impute from Python"
    example = example_in(checkpoint, network, remedy)
    if len(example) != 1:
        raise UsageError(
            f"the network takes {len(example)} inputs, and impute fills in the only one: `convexnet minimise` takes "
            "the others with --given, and gaps with --fix"
        )
    shape = example[0].shape[1:]
    x = samples_in(numbers, "NUMBERS", shape)
    known = ~x.isnan()
    if mask is not None:
        given = samples_in(mask, "--mask", shape)
        if not bool(((given == 0) | (given == 1)).all()):
            raise UsageError(f"--mask {mask} must hold 1 where a number is given, and 0 where it is missing")
        if len(given) not in (1, len(x)):
            raise UsageError(
                f"--mask {mask} has {len(given)} rows, and {numbers} has {len(x)}: give one row, or as many"
            )
        wrong = given.bool() & ~known
        if bool(wrong.any()):
            row = int(wrong.flatten(1).any(1).nonzero()[0])
            raise UsageError(f"--mask {mask} says that a number is given which is nan in row {row} of {numbers}")
        known = given.bool().expand_as(x)
    domain = box_of(box, shape) if box else None
    solution = cx.impute(
        one_output(network, example, output), x, known, domain, tol=tol, solver=solver, time_limit=time_limit
    )
    filled = torch.where(known, x, solution.x.double())  # what was given stays as it was, whatever type f has
    return replace(solution, x=filled), (~known).flatten(1).sum(1)


def samples_in(path: Path, option: str, shape: torch.Size) -> Tensor:
    """The numbers of a file as samples of a shape, (B, *shape), NaN where they are missing.

    Raises:
        UsageError: they do not fit.
    """
    arrays = arrays_of(path, option, gaps=True)
    if len(arrays) != 1:
        raise UsageError(f"{option} {path} must hold one array, and it holds {len(arrays)}")
    values, count = torch.from_numpy(np.array(arrays[0], dtype=np.float64)), shape.numel()
    if values.shape == shape:
        return values[None]
    if values.ndim < 2 or not len(values) or values[0].numel() != count:
        raise UsageError(
            f"{option} {path} holds numbers {tuple(values.shape)}, and a sample of the network has "
            f"{' x '.join(map(str, shape))}: one sample is one row"
        )
    return values.reshape(len(values), *shape)


def write_filled(solution: cx.Solution, path: Path) -> None:
    """The filled samples, in the format that the name ends in; under a temporary name first.

    Raises:
        UsageError: the file cannot be written.
    """
    if path.suffix.lower() == ".npz":
        written(solution, path)
        return
    draft = path.with_name(f".{path.name}.part")
    x = solution.x.numpy()
    try:
        with draft.open("wb") as file:
            if path.suffix.lower() == ".npy":
                np.save(file, x)
            else:
                np.savetxt(file, x.reshape(len(x), -1), delimiter=",", fmt="%.17g")
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from None
    finally:
        draft.unlink(missing_ok=True)


def show(solution: cx.Solution, missing: Tensor, path: Path, console: Console) -> None:
    """What was filled in, how well it is proved, and where it is."""
    samples, least, most = len(missing), int(missing.min()), int(missing.max())
    each = f"{least}" if least == most else f"{least} to {most}"
    gaps = f"{each} numbers missing in each" if most else "no number missing in any, so that nothing is filled in"
    console.print(f"{samples} sample{'s' if samples > 1 else ''}, {gaps}: {solution.message}")
    worst = float(solution.gap.max())
    if not math.isinf(worst):
        console.print(f"largest gap {worst:.2g}")
    console.print(f"{path} is written")

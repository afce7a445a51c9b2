"""Minimise a saved network for the subcommand `minimise`: from its options to a solution, in a table or a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import convexnet as cx
from convexnet.arrays import as_tensor
from convexnet.choices import SolverName
from convexnet.errors import meant
from convexnet.lab.cli.number_files import ENDINGS, arrays_of
from convexnet.lab.cli.terminal import refuse
from convexnet.lab.cli.user_model import limits_of
from convexnet.lab.errors import UsageError
from convexnet.lab.models.saved import network_of
from convexnet.memory import CLASSNAMES, example_of, recall

SHOWN = 10
"""Samples in the table; all of them go into the file of --out."""

WIDE = 6
"""Coordinates of x in the table."""


def minimised(
    checkpoint: Path,
    box: Sequence[str],
    given: Sequence[Path],
    *,
    fix: Sequence[str] = (),
    tol: float,
    solver: SolverName,
    wrt: int,
    time_limit: float | None,
    allow: Sequence[str] = (),
    output: str | None = None,
) -> cx.Solution:
    """Minimise a saved network, or one of its outputs, over one of its inputs.

    Raises:
        UsageError: the words do not fit the network.
    """
    network = network_of(checkpoint, allow)
    example = example_of(network)
    if not -len(example) <= wrt < len(example):
        raise UsageError(f"--wrt {wrt} is not one of the network's {len(example)} inputs, which count from 0")
    index = wrt % len(example)
    domain = fixed(box_of(box, example[index].shape[1:]), fix)
    others = [part for i, part in enumerate(example) if i != index]
    inputs = [array for path in given for array in arrays_of(path, "--given")]
    if len(inputs) != len(others):
        raise UsageError(
            f"the network takes {len(example)} inputs: --given must hold {len(others)} of them, not {len(inputs)}"
        )
    return cx.minimise(
        one_output(network, example, output),
        domain,
        given=tuple(fitted(array, *pair) for array, pair in zip(inputs, enumerate(others), strict=True)) or None,
        tol=tol,
        solver=solver,
        time_limit=time_limit,
        wrt=index - len(example),
    )


class Output(nn.Module):
    """One of the outputs (B, K) of a network."""

    def __init__(self, network: nn.Module, index: int) -> None:
        super().__init__()
        self.network, self.index = network, index

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)[:, self.index]


def one_output(network: nn.Module, example: Sequence[Tensor], wanted: str | None) -> nn.Module:
    """What is minimised: the network, or the output of it that `--output` names.

    Raises:
        UsageError: there is no such output, or there are several and none is named.
    """
    with torch.no_grad():
        found: object = network.eval()(*example)
    several = isinstance(found, Tensor) and found.ndim == 2 and found.shape[1] > 1
    if not several and wanted is None:
        return network
    count = found.shape[1] if isinstance(found, Tensor) and found.ndim == 2 else 1
    names: Sequence[str] = recall(network, CLASSNAMES) or ()
    told = (
        f", or by the names of its classes: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""
    )
    where = f"the network has {count} {'output' if count == 1 else 'outputs'}, which count from 0{told}"
    if wanted is None:
        raise UsageError(f"{where}; choose the one to minimise with --output")
    if wanted in names:  # first, as classes may be called by numbers
        return Output(network, names.index(wanted))
    if not wanted.isdecimal() or int(wanted) >= count:
        raise UsageError(f"--output {wanted!r} is not there{meant(wanted, names)}: {where}")
    return Output(network, int(wanted)) if several else network


def box_of(words: Sequence[str], shape: torch.Size) -> cx.Box:
    """The domain that `--box` describes, for one sample of this shape.

    Raises:
        UsageError: it is not a box, or not one for this many coordinates.
    """
    count = shape.numel()
    if len(words) == 1 and Path(words[0]).suffix.lower() in ENDINGS:
        path = Path(words[0])
        if not path.is_file():
            raise UsageError(f"--box {path}: there is no such file")
        arrays = arrays_of(path, "--box")
        if len(arrays) != 1 or arrays[0].shape != (count, 2):
            found = arrays[0].shape if len(arrays) == 1 else f"{len(arrays)} arrays"
            raise UsageError(
                f"--box {path} must hold a row LO,HI for each of the {count} coordinates, ({count}, 2), and it holds "
                f"{found}"
            )
        limits = [(float(lo), float(hi)) for lo, hi in arrays[0]]
    else:
        limits = [limits_of(word) for word in words]
        if len(limits) not in (1, count):
            raise UsageError(
                f"--box is given {len(limits)} times, and there are {count} coordinates: give it once for all of them, "
                "once for each, or name a file with a row LO,HI for each"
            )
    limits *= count if len(limits) == 1 else 1
    lo, hi = torch.tensor(limits, dtype=torch.float64).unbind(1)
    return cx.Box(lo.reshape(shape), hi.reshape(shape))


def fixed(box: cx.Box, words: Sequence[str]) -> cx.Box:
    """The box with the coordinates that `--fix` gives.

    Raises:
        UsageError: they are no coordinates of the box, given twice, or their values lie outside.
    """
    if not words:
        return box
    if len(words) == 1 and Path(words[0]).suffix.lower() in ENDINGS:
        values = given_coordinates(Path(words[0]), box.shape)
    else:
        values = torch.full(box.shape, math.nan, dtype=torch.float64)
        for word in words:
            index, value = coordinate_of(word, box.shape)
            if not bool(values[index].isnan()):
                raise UsageError(f"--fix {word}: that coordinate is given twice")
            values[index] = value
    try:
        return box.fix(values, ~values.isnan())
    except ValueError as error:
        raise UsageError(f"--fix: {error}") from None


def given_coordinates(path: Path, shape: torch.Size) -> Tensor:
    """The numbers of a file, (*shape) or (B, *shape), NaN where a coordinate is free.

    Raises:
        UsageError: they do not fit.
    """
    if not path.is_file():
        raise UsageError(f"--fix {path}: there is no such file")
    arrays = arrays_of(path, "--fix")
    if len(arrays) != 1:
        raise UsageError(f"--fix {path} must hold one array, and it holds {len(arrays)}")
    values, count = torch.from_numpy(np.array(arrays[0], dtype=np.float64)), shape.numel()
    if values.numel() == count:
        return values.reshape(shape)
    if values.ndim < 2 or not len(values) or values[0].numel() != count:
        raise UsageError(
            f"--fix {path} holds numbers {tuple(values.shape)}, and a sample has {count} coordinates: give one row, or "
            "one row for each sample, with nan where a coordinate is free"
        )
    return values.reshape(len(values), *shape)


def coordinate_of(word: str, shape: torch.Size) -> tuple[tuple[int, ...], float]:
    """The index and the value that "3=0.5" or "0,4,2=0.5" name; one number counts the coordinates in their order.

    Raises:
        UsageError: it names none.

    Example:
        >>> coordinate_of("5=0.5", torch.Size([2, 3])), coordinate_of("1,2=-1", torch.Size([2, 3]))
        (((1, 2), 0.5), ((1, 2), -1.0))
    """
    place, _, number = word.partition("=")
    try:
        index, value = tuple(int(part) for part in place.split(",")), float(number)
    except ValueError:
        raise UsageError(f"--fix {word!r} is not a coordinate and its value: write 3=0.5, or name a file") from None
    if not math.isfinite(value):
        raise UsageError(f"--fix {word}: the value of a coordinate is a finite number")
    sizes = (shape.numel(),) if len(index) == 1 else tuple(shape)
    if len(index) != len(sizes) or not all(0 <= k < size for k, size in zip(index, sizes, strict=False)):
        counted = " x ".join(map(str, shape))
        raise UsageError(f"--fix {word}: the input has {counted} coordinates, which count from 0")
    if len(index) == 1:
        index = tuple(int(k) for k in np.unravel_index(index[0], tuple(shape)))
    return index, value


def fitted(array: Any, number: int, like: Tensor) -> Tensor:
    """An input from a file in the type and shape that the network takes.

    Args:
        array: (B, ...).
        number: which of the inputs in `--given` it is.
        like: an example of the input, with a batch.

    Raises:
        UsageError: it does not fit.
    """
    shape = like.shape[1:]
    tensor = as_tensor(array, "--given")
    where = f"--given, input {number}"
    if tensor.ndim == 0 or tensor.shape[0] == 0 or tensor[0].numel() != shape.numel():
        rows = "has no rows" if tensor.ndim == 0 or not len(tensor) else f"has {tensor[0].numel()} numbers in a row"
        one = "; one sample is one row" if tensor.numel() == shape.numel() else ""
        raise UsageError(f"{where} {rows}, and the network takes {shape.numel()} for each sample{one}")
    if not like.is_floating_point() and not bool((tensor.double() == tensor.double().round()).all()):
        raise UsageError(f"{where} must hold integers, as the network takes them ({like.dtype})")
    return tensor.reshape(len(tensor), *shape).to(like.dtype)


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

"""Chords of a model in float64: points to draw them between, values at their ends, and the worst that was found."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from convexnet.curvature.tracing.restored_state import TRACING
from convexnet.domains import Box

TOLERANCE = 1e-8
"""Relative; above the 2e-9 step that PyTorch's softplus makes at its threshold of 20."""

SHORTENED, SHORTER = 24, 0.05
"""How many chords that are shorter at one end have to confirm a violation, and by which share of it at most."""

Forward = Callable[..., object]


@dataclass(frozen=True)
class Counterexample:
    """Two points between which a model lies above its chord; `str` makes a sentence of it that says where.

    Attributes:
        x, y: tuples of the chosen inputs, one sample each (without batch), float64.
        t: the violation is at t x + (1 - t) y.
        violation: f(t x + (1 - t) y) - t f(x) - (1 - t) f(y), the largest over the outputs; positive.
        others: the inputs that convexity was not asked in, as they were there.
        output: which element of the flattened outputs.

    Example:
        >>> point = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> print(Counterexample((point,), (point + 2,), t=0.5, violation=0.25, others=(), output=3))
        Not convex: at 0.5 x + 0.5 y, element 3 of the outputs lies 0.25 above its chord between
          x = [0, 1]
          y = [2, 3]
    """

    x: tuple[Tensor, ...]
    y: tuple[Tensor, ...]
    t: float
    violation: float
    others: tuple[Tensor, ...]
    output: int

    def __str__(self) -> str:
        lines = [
            f"Not convex: at {self.t:.4g} x + {1 - self.t:.4g} y, element {self.output} of the outputs lies "
            f"{self.violation:.4g} above its chord between",
            f"  x = {_listed(self.x)}",
            f"  y = {_listed(self.y)}",
        ]
        if self.others:
            lines.append(f"  where the other inputs are {_listed(self.others)}")
        return "\n".join(lines)


def _listed(tensors: Sequence[Tensor]) -> str:
    """A point in a line: the first entries of each tensor, and its shape where there are more."""
    parts: list[str] = []
    for tensor in tensors:
        shown = ", ".join(f"{value:.6g}" for value in tensor.flatten()[:6].tolist())
        more = tensor.numel() > 6
        parts.append(f"[{shown}, ...] of shape {tuple(tensor.shape)}" if more else f"[{shown}]")
    return "; ".join(parts)


class Chords:
    """A forward, the points it may be evaluated at, and a budget of samples for it.

    Args:
        forward: a function of the inputs, batch first, in float64; usually a module in eval mode.
        inputs: one tensor (B, ...) for each input, the first centres of the search.
        variables: the numbers of the inputs that chords run in.
        boxes: the boxes of those that have one.
        budget: how many samples may be evaluated.
        generator: of the points.
    """

    def __init__(
        self,
        forward: Forward,
        inputs: Sequence[Tensor],
        variables: Sequence[int],
        boxes: Mapping[int, Box],
        budget: int,
        generator: torch.Generator,
    ) -> None:
        self.forward = forward
        self.inputs = tuple(t.detach().double() if t.is_floating_point() else t.detach() for t in inputs)
        self.variables = tuple(variables)
        self.boxes = {i: hull(box) for i, box in boxes.items()}
        self.left = budget
        self.generator = generator
        elements = max(1, sum(t[0].numel() for t in self.inputs))
        self.width = max(2, min(64, 2_000_000 // elements, budget // 12))
        self.rows: int | None = None  # the only size of a batch that the forward takes
        self.best: Counterexample | None = None

    # --- points ---

    def randn(self, like: Tensor, n: int) -> Tensor:
        return torch.randn((n, *like.shape[1:]), generator=self.generator, dtype=torch.float64).to(like.device)

    def centres(self, n: int, scale: float) -> list[Tensor]:
        """Points of every input: around the rows of the example, or anywhere in the box."""
        rows = torch.randint(self.inputs[0].shape[0], (n,), generator=self.generator)
        found: list[Tensor] = []
        for i, tensor in enumerate(self.inputs):
            at = tensor[rows.to(tensor.device)]
            if not tensor.is_floating_point():
                found.append(at)
            elif i in self.boxes:
                found.append(self.anywhere(self.boxes[i], at))
            else:
                found.append(at.nan_to_num(0.0, 0.0, 0.0) + scale * self.randn(tensor, n))
        return found

    def anywhere(self, box: Box, at: Tensor) -> Tensor:
        """Uniform in a box; normal around the example along directions without bounds."""
        lo, hi = box.lo.to(at.device), box.hi.to(at.device)
        finite = lo.isfinite() & hi.isfinite()
        share = torch.rand(at.shape, generator=self.generator, dtype=torch.float64).to(at.device)
        inside = torch.where(finite, lo + share * (hi - lo), 0.0)
        return box.project(torch.where(finite, inside, at + self.randn(at, at.shape[0])))

    def keep_in(self, i: int, points: Tensor) -> Tensor:
        return self.boxes[i].project(points) if i in self.boxes else points

    # --- values ---

    def values(self, points: Sequence[Tensor]) -> Tensor:
        """All floating outputs, flattened: (n, outputs)."""
        n = points[0].shape[0]
        if self.rows is not None and n != self.rows:  # the last row once more where some are missing
            at = torch.arange(-(-n // self.rows) * self.rows, device=points[0].device).clamp(max=n - 1)
            parts = [self.values([p[rows] for p in points]) for rows in at.split(self.rows)]
            return torch.cat(parts)[:n]
        out = [leaf for leaf in pytree.tree_leaves(self.forward(*points)) if isinstance(leaf, Tensor)]
        out = [leaf for leaf in out if leaf.is_floating_point()]
        if not out:
            raise ValueError("the model has no floating-point output")
        for leaf in out:
            if leaf.ndim == 0 or leaf.shape[0] != n:
                raise ValueError(f"an output of shape {tuple(leaf.shape)} has no batch dimension of {n}")
        return torch.cat([leaf.reshape(n, -1).double() for leaf in out], 1)

    def chord(self, x: list[Tensor], y: list[Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
        """Violation and tolerance for each chord and output, (n, outputs)."""
        f = self.values([torch.cat(parts) for parts in zip(x, y, self.middle(x, y, t), strict=True)])
        return excess(f, t)

    def middle(self, x: Sequence[Tensor], y: Sequence[Tensor], t: Tensor) -> list[Tensor]:
        """t x + (1 - t) y in the chosen inputs; the others are those of y."""
        return [b if i not in self.variables else _mix(t, a, b) for i, (a, b) in enumerate(zip(x, y, strict=True))]

    @torch.no_grad()
    def record(self, x: list[Tensor], y: list[Tensor], t: Tensor, gap: Tensor, tolerance: Tensor) -> None:
        """Note the worst of some chords, if it is confirmed and worse than what is known."""
        beyond = torch.where(gap.isfinite(), gap - tolerance, -torch.inf)
        if beyond.numel() == 0 or float(beyond.max()) <= 0:
            return
        row, output = divmod(int(beyond.argmax()), beyond.shape[1])
        if self.best is not None and float(gap[row, output]) <= self.best.violation:
            return
        found = Counterexample(
            x=tuple(x[i][row].clone() for i in self.variables),
            y=tuple(y[i][row].clone() for i in self.variables),
            t=float(t[row]),
            violation=float(gap[row, output]),
            others=tuple(p[row].clone() for i, p in enumerate(x) if i not in self.variables),
            output=output,
        )
        self.best = self.confirm(found, [p[row] for p in x], [p[row] for p in y]) or self.best

    def confirm(self, found: Counterexample, x: Sequence[Tensor], y: Sequence[Tensor]) -> Counterexample | None:
        """The same chord with its points in a batch of their own, so that no other row can influence them; None if the
        violation is not there, or may be rounding.

        Where large terms cancel, a forward is a staircase of rounding errors, and those differ from one chord to the
        next. So a violation has to show in all of many chords that are a little shorter at one end, or in all of those
        that are shorter at the other: at a jump, only one side lies above its chords.
        """
        device = x[0].device
        cut = SHORTER * torch.rand(SHORTENED + 1, generator=self.generator, dtype=torch.float64).to(device)
        cut[0] = 0.0
        left = torch.cat([cut, torch.zeros_like(cut)])
        right = left.roll(len(cut))
        n = len(left)
        start, end = ([p.expand(n, *p.shape).clone() for p in point] for point in (x, y))
        nearer = self.middle(end, start, left)  # of x, moved towards y
        farther = self.middle(start, end, right)
        t = torch.full((n,), found.t, dtype=torch.float64, device=device)
        gap, tolerance = (part[:, found.output] for part in self.chord(nearer, farther, t))
        violation = float(gap[0])
        if not violation > float(tolerance[0]):
            return None
        ways = (gap > 0.25 * violation).reshape(2, -1).all(1)
        return replace(found, violation=violation) if bool(ways.any()) else None


def hull(box: Box) -> Box:
    """The smallest box that holds those of all samples."""
    return box if box.batch is None else Box(box.lo.amin(0), box.hi.amax(0), tuple(box.shape))


def excess(f: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """f (3n, outputs) at the ends and in the middle: how far it lies above the chords, and the tolerance."""
    fx, fy, fm = f.chunk(3)
    tt = t[:, None]
    size = torch.stack([fx, fy, fm]).abs().amax(0)
    return fm - tt * fx - (1 - tt) * fy, TOLERANCE * (1 + size)


@contextmanager
def default(dtype: torch.dtype) -> Generator[None]:
    """Tensors that a forward creates are of this type."""
    with TRACING:  # torch has one default for all threads
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def _mix(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    tt = t.reshape(-1, *[1] * (a.ndim - 1))
    return tt * a + (1 - tt) * b

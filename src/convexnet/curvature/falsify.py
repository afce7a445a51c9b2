"""The adversary of the certificate: a search for points where a model is not convex.

It knows nothing of the calculus. It evaluates a float64 copy of the model on chords at several scales, and then climbs
the violation by gradient ascent, because random chords practically never meet the rare cases (one negative weight, a
SiLU deep inside a convolutional network).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from convexnet.curvature.accepted import check_modules, check_tensors
from convexnet.curvature.arguments import as_example, chosen, copied, unwrapped
from convexnet.curvature.certificate import Domain, domains_of
from convexnet.curvature.failures import evaluated
from convexnet.curvature.undisturbed import TRACING, evaluating
from convexnet.domains import Box

SCALES = (1.0, 0.1, 10.0, 3.0, 60.0, 0.01)
TOLERANCE = 1e-8
"""Relative; above the 2e-9 step that PyTorch's softplus makes at its threshold of 20."""


@dataclass(frozen=True)
class Counterexample:
    """Two points between which a model lies above its chord.

    Attributes:
        x, y: tuples of the chosen inputs, one sample each (without batch), float64.
        t: the violation is at t x + (1 - t) y.
        violation: f(t x + (1 - t) y) - t f(x) - (1 - t) f(y), the largest over the outputs; positive.
        others: the inputs that convexity was not asked in, as they were there.
        output: which element of the flattened outputs.

    Example:
        >>> found = falsify(nn.Tanh(), torch.zeros(1, 1))
        >>> found.violation > 1e-8
        True
    """

    x: tuple[Tensor, ...]
    y: tuple[Tensor, ...]
    t: float
    violation: float
    others: tuple[Tensor, ...]
    output: int


def falsify(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    wrt: int | Sequence[int] | None = None,
    domain: Domain = None,
    budget: int = 100_000,
    seed: int = 0,
) -> Counterexample | None:
    """Search for a violation of convexity; None if the budget ends without one (which proves nothing).

    Each row of a batch counts as a sample of its own. The model is left untouched: a float64 copy is evaluated, in
    eval mode.

    Args:
        model: any module with floating outputs whose first dimension is the batch.
        example: a tensor (B, ...) or tuple of them; its values are the first centres of the search.
        wrt: the inputs to be convex in, as for `certify`; the others are drawn at random and held fixed on a chord.
        domain: a `Box`, or one for each chosen input; chords stay inside.
        budget: how many samples may be evaluated; a step of ascent costs six for each chord (forward and backward).
        seed: of the search; the same seed finds the same point.

    Returns:
        The worst violation found, if above 1e-8 (1 + |f|).

    Raises:
        NotTraceable: the model holds tensors or modules that are not torch's plain ones.
        TypeError, ValueError: wrong arguments, or outputs without a batch dimension.

    Example:
        >>> falsify(nn.Softplus(), torch.zeros(1, 2), budget=5_000) is None
        True
    """
    source = unwrapped(model)
    inputs = as_example(example)
    variables = chosen(inputs, wrt)
    boxes = domains_of([tensor[:1] for tensor in inputs], variables, domain)
    if budget < 1:
        raise ValueError(f"the budget must be at least 1, not {budget}")
    check_modules(source)
    check_tensors(source)
    with evaluating(source):
        twin = copied(source)
    twin.double().requires_grad_(False)
    search = _Search(twin, inputs, variables, boxes, budget, torch.Generator().manual_seed(seed))
    with evaluating(twin), default_double():
        return search.run()


@contextmanager
def default_double() -> Generator[None]:
    """Tensors that a forward creates are float64 too."""
    with TRACING:  # torch has one default for all threads
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class _Search:
    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Tensor, ...],
        variables: tuple[int, ...],
        boxes: dict[int, Box],
        budget: int,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.inputs = tuple(t.detach().double() if t.is_floating_point() else t.detach() for t in inputs)
        self.variables = variables
        self.boxes = boxes
        self.left = budget
        self.generator = generator
        elements = max(1, sum(t[0].numel() for t in self.inputs))
        self.width = max(2, min(64, 2_000_000 // elements, budget // 12))
        self.best: Counterexample | None = None
        self.climbs = True

    def run(self) -> Counterexample | None:
        """Chords first, a tenth of the budget; then ascents at every scale until the budget ends."""
        start = self.left
        round_ = 0
        while self.left > start * 0.9 and self.left >= 3:
            self.chords(SCALES[round_ % len(SCALES)])
            round_ += 1
            if self.best is not None:
                return self.best
        round_ = 0
        while self.left >= 6 and self.climbs:
            self.ascend(SCALES[round_ % len(SCALES)], steps=120)
            round_ += 1
            if self.best is not None:
                return self.best
        while self.left >= 3 and self.best is None:  # no gradients to be had
            self.chords(SCALES[round_ % len(SCALES)])
            round_ += 1
        return self.best

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
        out = [leaf for leaf in pytree.tree_leaves(evaluated(self.model, points)) if isinstance(leaf, Tensor)]
        out = [leaf for leaf in out if leaf.is_floating_point()]
        if not out:
            raise ValueError("the model has no floating-point output")
        for leaf in out:
            if leaf.ndim == 0 or leaf.shape[0] != n:
                raise ValueError(f"an output of shape {tuple(leaf.shape)} has no batch dimension of {n}")
        return torch.cat([leaf.reshape(n, -1).double() for leaf in out], 1)

    def chord(self, x: list[Tensor], y: list[Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
        """Violation and tolerance for each chord and output, (n, outputs)."""
        n = t.shape[0]
        middle = [b if i not in self.variables else _mix(t, a, b) for i, (a, b) in enumerate(zip(x, y, strict=True))]
        f = self.values([torch.cat(parts) for parts in zip(x, y, middle, strict=True)])
        fx, fy, fm = f[:n], f[n : 2 * n], f[2 * n :]
        tt = t[:, None]
        size = torch.stack([fx, fy, fm]).abs().amax(0)
        return fm - tt * fx - (1 - tt) * fy, TOLERANCE * (1 + size)

    def record(self, x: list[Tensor], y: list[Tensor], t: Tensor, gap: Tensor, tolerance: Tensor) -> None:
        excess = torch.where(gap.isfinite(), gap - tolerance, -torch.inf)
        if excess.numel() == 0 or float(excess.max()) <= 0:
            return
        flat = int(excess.argmax())
        row, output = divmod(flat, excess.shape[1])
        violation = float(gap[row, output])
        if self.best is None or violation > self.best.violation:
            self.best = Counterexample(
                x=tuple(x[i][row].clone() for i in self.variables),
                y=tuple(y[i][row].clone() for i in self.variables),
                t=float(t[row]),
                violation=violation,
                others=tuple(p[row].clone() for i, p in enumerate(x) if i not in self.variables),
                output=output,
            )

    # --- the two searches ---

    @torch.no_grad()
    def chords(self, scale: float) -> None:
        """Random chords: both ends at the scale, and short ones along a random direction."""
        n = max(1, min(self.width, self.left // 3))
        self.left -= 3 * n
        x = self.centres(n, scale)
        other = self.centres(n, scale)
        short = torch.rand(n, generator=self.generator) < 0.5
        y = list(x)
        for i in self.variables:
            near = self.keep_in(i, x[i] + 0.1 * scale * self.randn(x[i], n))
            y[i] = torch.where(_column(short, x[i]), near, other[i])
        t = torch.rand(n, generator=self.generator, dtype=torch.float64).clamp(0.02, 0.98).to(x[0].device)
        self.record(x, y, t, *self.chord(x, y, t))

    def ascend(self, scale: float, steps: int) -> None:
        """Adam on the midpoint violation over (centre, direction), each chord for the output it violates most."""
        n = max(1, min(self.width, self.left // 6))
        base = self.centres(n, scale)
        centre = {i: base[i].clone().requires_grad_() for i in self.variables}
        direction = {i: (scale * self.randn(base[i], n)).requires_grad_() for i in self.variables}
        moving = [*centre.values(), *direction.values()]
        optimizer = torch.optim.Adam(moving, lr=0.1 * scale)
        half = torch.full((n,), 0.5, dtype=torch.float64, device=base[0].device)
        for _ in range(steps):
            if self.left < 6 * n:
                self.left = 0
                return
            self.left -= 6 * n
            x, y = list(base), list(base)
            for i in self.variables:
                x[i] = self.keep_in(i, centre[i] + direction[i])
                y[i] = self.keep_in(i, centre[i] - direction[i])
            gap, tolerance = self.chord(x, y, half)
            with torch.no_grad():
                self.record(x, y, half, gap, tolerance)
            if self.best is not None:
                return
            if not gap.requires_grad:
                return  # constant outputs
            spread = gap.detach().abs().amax(0, keepdim=True).clamp(min=1e-12)
            loss = -(gap / spread).sum()
            try:
                grads = torch.autograd.grad(loss, moving, allow_unused=True, materialize_grads=True)
            except RuntimeError:  # in-place writes, or operators without a derivative
                self.climbs = False
                return
            for tensor, grad in zip(moving, grads, strict=True):
                tensor.grad = grad.nan_to_num(0.0, 0.0, 0.0)
            optimizer.step()


def _column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def _mix(t: Tensor, a: Tensor, b: Tensor) -> Tensor:
    tt = t.reshape(-1, *[1] * (a.ndim - 1))
    return tt * a + (1 - tt) * b

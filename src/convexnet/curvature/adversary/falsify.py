"""The adversary of the certificate: a search for points where a model is not convex.

It knows nothing of the calculus. It evaluates a float64 copy of the model, in three searches: chords across the zero
sets of the nonlinearities (`guided_search`), random chords at several scales, and gradient ascent on the violation. The
first finds the rare cases that the others practically never meet, such as one negative weight in a hundred in a deep
network; the others need no derivative, or no nonlinearity that is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from convexnet.arrays import as_size
from convexnet.curvature.adversary.chords import Chords, Counterexample, column, default
from convexnet.curvature.adversary.guided_search import guided
from convexnet.curvature.arguments import as_example, chosen_inputs, copy_module, unwrap
from convexnet.curvature.premises import Domain, boxes_of
from convexnet.curvature.tracing.restored_state import TRACING, evaluating
from convexnet.curvature.tracing.traceable_models import check_modes, check_modules, check_tensors
from convexnet.domains import Box
from convexnet.errors import ConvexNetError

__all__ = ["Counterexample", "default_double", "falsify", "guided_chords"]

SCALES = (1.0, 0.1, 10.0, 3.0, 60.0, 0.01)
GUIDED = 0.7
"""The share of the budget that the guided search may use."""


def falsify(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    wrt: int | Sequence[int] | None = None,
    domain: Domain = None,
    budget: int = 100_000,
    seed: int = 0,
) -> Counterexample | None:
    """Search for a violation of convexity; return None if the budget ends without one (which proves nothing).

    Each row of a batch counts as a sample of its own. The model is left untouched: a float64 copy is evaluated, in
    eval mode. A violation that is found must show again in a batch of its own, and in chords that are a little shorter,
    so that it is not the rounding of terms that cancel; those 150 samples are not counted.

    Args:
        model: any module with floating outputs whose first dimension is the batch.
        example: a tensor (B, ...) or tuple of them; its values are the first centres of the search.
        wrt: the inputs to be convex in, as for `certify`; the others are drawn at random and held fixed on a chord.
        domain: a `Box`, or one for each chosen input; chords stay inside. Of another domain, inside of its `hull()`,
            which is what a certificate on it speaks of.
        budget: how many samples may be evaluated; a backward pass counts as a forward pass, so that a step of ascent
            costs six for each chord.
        seed: of the search; the same seed finds the same point.

    Returns:
        The worst violation found, if above 1e-8 (1 + |f|).

    Raises:
        NotTraceable: the model holds tensors or modules that are not torch's plain ones.
        TypeError, ValueError: wrong arguments, an example that the model cannot take, or outputs without a batch
            dimension.

    Example:
        >>> falsify(nn.Softplus(), torch.zeros(1, 2), budget=5_000) is None
        True
        >>> print(falsify(nn.Tanh(), torch.tensor([[1.0]]), seed=1))  # doctest: +ELLIPSIS
        Not convex: at 0.5 x + 0.5 y, element 0 of the outputs lies ... above its chord between
          x = [...]
          y = [...]
    """
    source = unwrap(model)
    inputs = as_example(example)
    variables = chosen_inputs(inputs, wrt)
    boxes = boxes_of([tensor[:1] for tensor in inputs], variables, domain)
    budget, seed = as_size(budget, "budget"), as_size(seed, "seed", 0)
    with TRACING:  # while another thread traces the model, its tensors are others
        check_modes(source)
        check_modules(source)
        check_tensors(source)
        with evaluating(source):
            twin = copy_module(source)
    twin.double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    chords = Chords(twin, inputs, variables, boxes, budget, generator)
    with evaluating(twin), default_double(), torch.enable_grad():
        attempt(chords, type(source).__name__)
        return _Search(chords).run()


def guided_chords(
    function: Callable[..., object],
    inputs: Sequence[Tensor],
    variables: Sequence[int],
    boxes: Mapping[int, Box] | None = None,
    budget: int = 20_000,
    seed: int = 0,
) -> Counterexample | None:
    """Search a function for violations of convexity with the guided search alone, as for a program that is traced.

    Args:
        function: of the inputs (n, ...), for every n; returns tensors (n, ...), or lists of them. Not copied.
        inputs: one example (B, ...) of each input.
        variables: the numbers of the inputs that chords run in.
        boxes: the domain of those that have one.

    Example:
        >>> guided_chords(lambda x: x.abs().sum(1) - 0.1 * x.relu()[:, 0], [torch.zeros(1, 3)], [0]) is None
        True
        >>> guided_chords(lambda x: x.abs().sum(1) - 2.1 * x.relu()[:, 0], [torch.zeros(1, 3)], [0]) is None
        False
    """
    chords = Chords(function, inputs, variables, boxes or {}, budget, torch.Generator().manual_seed(seed))
    with default_double():
        guided(chords, budget)
    return chords.best


def default_double() -> AbstractContextManager[None]:
    """Tensors that a forward creates are float64 too."""
    return default(torch.float64)


@torch.no_grad()
def attempt(chords: Chords, name: str) -> None:
    """Evaluate the example once, so that a model that cannot take it says so in words."""
    rows = min(2, chords.left, chords.inputs[0].shape[0])
    points = [tensor[:rows] for tensor in chords.inputs]
    chords.left -= rows
    try:
        chords.values(points)
        chords.rows = only_size(chords, points)
    except (ConvexNetError, ValueError):
        raise
    except Exception as error:  # whatever a user's forward raises
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in points)
        raise ValueError(
            f"{name} cannot be evaluated on inputs of shape {shapes}: {type(error).__name__}: {first}\n"
            "  give an example that the model takes, one positional tensor for each input, batch first; it is "
            "evaluated in float64, so its forward must not compute in a fixed precision"
        ) from error.with_traceback(None)


def only_size(chords: Chords, points: Sequence[Tensor]) -> int | None:
    """The number of rows of these points, if the model takes no other; a batch may be reshaped to a fixed size."""
    more = [torch.cat([p, p[:1]]) for p in points]
    if chords.left < len(more[0]):
        return None
    chords.left -= len(more[0])
    try:
        chords.values(more)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return len(points[0])
    return None


class _Search:
    def __init__(self, chords: Chords) -> None:
        self.chords = chords
        self.climbs = True

    def run(self) -> Counterexample | None:
        """Guided chords first, then random ones, a tenth of the budget; then ascents until the budget ends."""
        chords = self.chords
        start = chords.left
        guided(chords, int(GUIDED * start))
        start = chords.left
        round_ = 0
        while chords.left > start * 0.9 and chords.left >= 3 and chords.best is None:
            self.random(SCALES[round_ % len(SCALES)])
            round_ += 1
        round_ = 0
        while chords.left >= 6 and self.climbs and chords.best is None:
            self.ascend(SCALES[round_ % len(SCALES)], steps=120)
            round_ += 1
        while chords.left >= 3 and chords.best is None:  # no gradients to be had
            self.random(SCALES[round_ % len(SCALES)])
            round_ += 1
        return chords.best

    @torch.no_grad()
    def random(self, scale: float) -> None:
        """Random chords: both ends at the scale, and short ones along a random direction."""
        chords = self.chords
        n = max(1, min(chords.width, chords.left // 3))
        chords.left -= 3 * n
        x = chords.centres(n, scale)
        other = chords.centres(n, scale)
        short = torch.rand(n, generator=chords.generator) < 0.5
        y = list(x)
        for i in chords.variables:
            near = chords.keep_in(i, x[i] + 0.1 * scale * chords.randn(x[i], n))
            y[i] = torch.where(column(short, x[i]), near, other[i])
        t = torch.rand(n, generator=chords.generator, dtype=torch.float64).clamp(0.02, 0.98).to(x[0].device)
        chords.record(x, y, t, *chords.chord(x, y, t))

    def ascend(self, scale: float, steps: int) -> None:
        """Adam on the midpoint violation over (centre, direction), each chord for the output it violates most."""
        chords = self.chords
        n = max(1, min(chords.width, chords.left // 6))
        start = chords.centres(n, scale)
        centre = {i: start[i].clone().requires_grad_() for i in chords.variables}
        direction = {i: (scale * chords.randn(start[i], n)).requires_grad_() for i in chords.variables}
        moving = [*centre.values(), *direction.values()]
        optimizer = torch.optim.Adam(moving, lr=0.1 * scale)
        half = torch.full((n,), 0.5, dtype=torch.float64, device=start[0].device)
        for _ in range(steps):
            if chords.left < 6 * n:
                chords.left = 0
                return
            chords.left -= 6 * n
            x, y = list(start), list(start)
            for i in chords.variables:
                x[i] = chords.keep_in(i, centre[i] + direction[i])
                y[i] = chords.keep_in(i, centre[i] - direction[i])
            gap, tolerance = chords.chord(x, y, half)
            chords.record([p.detach() for p in x], [p.detach() for p in y], half, gap.detach(), tolerance.detach())
            if chords.best is not None:
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

"""What `minimise` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

from torch import Tensor


class Multipliers:
    """Multipliers that are computed once, when they are asked for.

    Args:
        compute: gives them.

    Example:
        >>> import torch
        >>> Multipliers(lambda: {"total": torch.ones(1, 1)}).get()["total"].tolist()
        [[1.0]]
    """

    def __init__(self, compute: Callable[[], dict[str, Tensor]]) -> None:
        self.compute: Callable[[], dict[str, Tensor]] | None = compute
        self.known: dict[str, Tensor] | None = None

    def get(self) -> dict[str, Tensor]:
        """The multipliers, by kind."""
        compute = self.compute
        if self.known is None:
            if compute is None:
                raise RuntimeError("a copy or a saved solution has no multipliers: its function was not opened")
            self.known = compute()
            self.compute = None  # with all that it needs
        return self.known

    def __getstate__(self) -> dict[str, object]:
        """Copies and files hold the multipliers, not the problem."""
        try:
            known = {kind: part.detach() for kind, part in self.get().items()}
        except (RuntimeError, ValueError):
            known = None
        return {"known": known, "compute": None}


@dataclass(frozen=True)
class Trail:
    """What a search leaves to one that starts from its solution.

    Attributes:
        y: the points, (B, n), in float64.
        slopes: of all atoms, (B, in_k) each.
        basis: what held the minimiser, where one sample was solved as a vertex.
    """

    y: Tensor
    slopes: tuple[Tensor, ...]
    basis: object = None


@dataclass(frozen=True)
class Solution:
    """The minimum of each sample of a batch, with a proof of its accuracy.

    Attributes:
        x: the points (B, *shape), in the type of `given`. Gradients flow through it.
        value: f at x, by the module's own forward, (B,) in float64. Gradients flow through it.
        lower_bound: below the minimum of each sample, (B,) in float64; −inf where nothing could be proved.
        upper_bound: above it: the value.
        gap: upper_bound − lower_bound, at least 0.
        converged: gap <= atol + tol · S and rounding, (B,) booleans; see `minimise`.
        status: B strings: "converged", "stopped" (by a budget, or since nothing more could be proved), "unbounded"
            (where f certainly has no least value) or "infeasible" (where no point meets the constraints: x is NaN,
            value and bounds are inf, and the message names the rows that conflict).
        steps: of the iterative solvers, (B,).
        solver: which solver was used.
        message: what happened, in a sentence, and what to try where samples have not converged.

    x and value carry gradients where `given`, the parameters of f or the bounds do, as the results of any PyTorch
    function. For numpy, take `solution.detach()` first, or call `minimise` under `torch.no_grad()`, which is faster.

    Example:
        >>> import torch
        >>> import convexnet as cx
        >>> cx.minimise(torch.nn.Linear(3, 1), cx.Box(-1, 1, shape=(3,)))
        Solution(1 of 1 converged, largest gap ..., newton, x of shape (1, 3))
    """

    x: Tensor
    value: Tensor
    lower_bound: Tensor
    upper_bound: Tensor
    gap: Tensor
    converged: Tensor
    status: tuple[str, ...]
    steps: Tensor
    solver: str
    message: str
    found: Multipliers | None = field(default=None, repr=False, compare=False)
    trail: Trail | None = field(default=None, repr=False, compare=False)

    @property
    def multipliers(self) -> dict[str, Tensor]:
        """The multipliers of what constrains the minimisers: computed when they are first asked for.

        With L = f + λ (A y − b) + ν (A_eq y − b_eq), λ >= 0: `lower` and `upper` (B, n) of bounds, `inequality` (B, m)
        and `equality` of rows, `total` (B, 1) of a simplex, `ball`, and `subject_to` (B, number of networks). Where a
        sample is infeasible they are NaN. By how much the minimum falls (of `maximise`, the maximum rises) where a
        right side grows by 1.

        Raises:
            RuntimeError: f could not be opened at its kinks, so that it has no slopes to tell them by.

        Example:
            >>> import torch
            >>> import convexnet as cx
            >>> f = torch.nn.Linear(2, 1)
            >>> _ = f.weight.data.copy_(torch.tensor([[1.0, 3.0]]))
            >>> cx.minimise(f, cx.Simplex(2)).multipliers["total"].round(decimals=3).tolist()
            [[-1.0]]
        """
        return {} if self.found is None else self.found.get()

    def detach(self) -> Solution:
        """Return the same solution without gradients, so that `solution.detach().x.numpy()` is an array.

        Example:
            >>> import torch
            >>> import convexnet as cx
            >>> solution = cx.minimise(torch.nn.Linear(3, 1), cx.Box(-1, 1, shape=(3,)))
            >>> solution.x.requires_grad, solution.detach().x.numpy().shape
            (True, (1, 3))
        """
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: part.detach() for name, part in held.items() if isinstance(part, Tensor)})

    def __repr__(self) -> str:
        worst = float(self.gap.max()) if len(self.gap) else 0.0
        done = int(self.converged.sum())
        return (
            f"Solution({done} of {len(self.converged)} converged, largest gap {worst:.2g}, "
            f"{self.solver}, x of shape {tuple(self.x.shape)})"
        )

"""Say in a sentence how far a minimisation came, and what would help: the `message` of a solution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WIDE = 1e15
"""A side of a domain from which on a step that float64 resolves there may be longer than what f changes over."""


@dataclass(frozen=True)
class Summary:
    """What a message is made of; B samples.

    Attributes:
        converged: which samples have, (B,).
        bound: their lower bounds, (B,).
        solver: who did it.
        gap: the largest gap of those that have not, as a share of the size of f.
        compact: whether all bounds of the domain are finite.
        closed: why the function was not opened; empty if it was.
        rounded: the type of the points, and which samples had converged before they were rounded to it.
        unbounded: which samples certainly have no least value, (B,).
        other: of which samples the module's own value is below what its traced program can be, (B,).
        side: the largest side of the domain of those that have not converged, as far as it is finite.
    """

    converged: Tensor
    bound: Tensor
    solver: str
    gap: float
    compact: bool
    closed: str
    rounded: tuple[torch.dtype, Tensor] | None
    unbounded: Tensor
    other: Tensor
    side: float

    @property
    def message(self) -> str:
        """How many samples converged; of the others, the first reason that holds, with its remedy."""
        used = f"{self.solver}, on its values and tangents alone: {self.closed}" if self.closed else self.solver
        count, done = len(self.converged), int(self.converged.sum())
        if done == count:
            return f"all {count} converged ({used})" if count > 1 else f"converged ({used})"
        text = f"{done} of {count} converged ({used}); largest gap {self.gap:.2g} of the size of f"
        if bool(self.other.any()):
            return (
                f"{text}. Nothing is proved of sample {listed(self.other)}: the module's own forward is lower there "
                "than the program that was traced can be. It reads the size of its batch, the type of its numbers or "
                "whether gradients are recorded, or writes into its own tensors: make it compute one function of each "
                "sample"
            )
        if bool(self.unbounded.any()):
            where = f"(sample {listed(self.unbounded)})"
            return f"{text}. f is unbounded below on this domain {where}: give finite bounds"
        if not self.compact and bool(torch.isinf(self.bound).any()):
            return (
                f"{text}. On an unbounded domain a bound is proved from strong convexity, which is looked for in the "
                "squares of single coordinates, or where f is seen to rise in all directions; neither was found. Give "
                "finite bounds, or a network with a quadratic term (FICNN(quadratic=...))"
            )
        if self.rounded is not None and bool(self.rounded[1].any()):
            kind, lost = str(self.rounded[0]).removeprefix("torch."), int(self.rounded[1].sum())
            text = f"{text}, {lost} of them only since x was rounded to {kind}: give float64 (or try a larger tol)"
            if lost == count - done:
                return text
        if self.side >= WIDE:
            return (
                f"{text}. A side of the domain is {self.side:.1g} long, of which double precision resolves steps of "
                f"{self.side * 2.0**-53:.1g}: give bounds that are nearer to where the minimiser may be"
            )
        return f"{text}. The points are the best found and the gaps hold: try a larger tol, max_steps or time_limit"


def listed(which: Tensor) -> str:
    """The numbers of some samples (B,), the first eight of them.

    Example:
        >>> listed(torch.tensor([False, True, True]))
        '1, 2'
    """
    return ", ".join(str(index) for index in which.nonzero()[:8, 0].tolist())

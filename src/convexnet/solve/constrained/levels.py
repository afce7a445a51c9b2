"""Constraints by networks: whether a point meets them, and the way to where it does.

The networks' largest excess G(y) = max g(y) − level is convex. Its minimum over the domain, found when it is first
needed, is a point c inside, where G(c) < 0; or it is proved to be positive, and no point meets the constraints. From a
point p with G(p) > 0, p + t (c − p) with t = G(p) / (G(p) − G(c)) meets them, because G is convex.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.solve.arguments import Arguments
from convexnet.solve.at_most import one_number

ROUNDING = 64 * 2.0**-52
"""By how much a level may be passed, as a share of it (at least of 1): what rounding leaves of a point on it."""

ROUGH = 1e-2
"""The gap, as a share of G's size, to which its minimum is found: some point inside is enough."""


class Excess(nn.Module):
    """max over networks of g(…, y) − level, (B,) in float64.

    Inputs: for each network its level (B, 1) and what it takes besides y; y comes last.

    Args:
        networks: the g.
        places: for each, how many inputs it has besides y, and where y stands among them.

    Example:
        >>> Excess([nn.Linear(2, 1)], [(0, 0)])(torch.ones(3, 1), torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    def __init__(self, networks: Sequence[nn.Module], places: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.places = tuple(places)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The largest excess."""
        *rest, y = inputs
        found: list[Tensor] = []
        for network, (count, place) in zip(self.networks, self.places, strict=True):
            level, theirs, rest = rest[0], rest[1 : 1 + count], rest[1 + count :]
            found.append(one_number(network(*theirs[:place], y, *theirs[place:])) - level[:, 0])
        return found[0] if len(found) == 1 else torch.stack(found).amax(0)


def excess_arguments(arguments: Arguments) -> Arguments:
    """The problem min G(y) over the domain of `arguments`, without further constraints."""
    networks: list[nn.Module] = []
    places: list[tuple[int, int]] = []
    inputs: list[Tensor] = []
    for constraint in arguments.subject_to:
        theirs, place = list(constraint.given), len(constraint.given)
        if not isinstance(constraint.takes, int):
            theirs = [t for i, t in enumerate(arguments.inputs) if i != arguments.variable]
            place = arguments.variable
        networks.append(constraint.module)
        places.append((len(theirs), place))
        inputs += [constraint.level.detach(), *(t.detach() for t in theirs)]
    inputs.append(arguments.inputs[arguments.variable])
    return replace(
        arguments, module=Excess(networks, places), inputs=inputs, variable=len(inputs) - 1, subject_to=(), start=None,
        owner=arguments.owner or arguments.module,
        kind=(arguments.kind, "excess", tuple(id(network) for network in networks)),
        atol=torch.zeros_like(arguments.atol), budget=replace(arguments.budget, tol=ROUGH, watch=None),
    )  # fmt: skip


def excess_of(arguments: Arguments, work: Callable[[Arguments], Any]) -> Any:
    """The function G of a problem, with `value(y)`."""
    return work(excess_arguments(arguments)).forward()


class Levels:
    """The constraints of a batch.

    Args:
        arguments: the problem.
        work: makes the turns of a problem without constraints, and can be asked for its points, values and bounds.
    """

    def __init__(self, arguments: Arguments, work: Callable[[Arguments], Any]) -> None:
        self.arguments = excess_arguments(arguments)
        self.asked, self.make = arguments, work
        self.work: Any = work(self.arguments)
        self.own = self.work.forward()
        self.size = torch.stack([c.level.detach()[:, 0].abs() for c in arguments.subject_to]).amax(0).clamp(min=1.0)
        self._inner: Tensor | None = None

    def inside(self) -> Tensor:
        """Points of the domain at which G is least, (B, n); looked for once."""
        found = self._inner
        if found is None:
            self.work.run(check=False)
            found = self._inner = self.work.x.double()
        return found

    def missed(self, row: int) -> list[str]:
        """The names of the constraints that the sample misses where the largest excess is least."""
        asked, names = self.asked, [f"subject_to[{i}]" for i in range(len(self.asked.subject_to))]
        if len(names) == 1:
            return names
        point = self.inside()
        return [
            name
            for name, constraint in zip(names, asked.subject_to, strict=True)
            if float(excess_of(replace(asked, subject_to=(constraint,)), self.make).value(point)[row]) > 0
        ] or names

    def pull(self, rows: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points of the domain (R, n) moved to where they meet the constraints; which do (R,); and of which samples
        (R,) it is proved that no point does."""
        own, room = self.own.rows(rows), ROUNDING * self.size[rows]
        point = point.to(self.arguments.dtype).double()
        far = own.value(point)
        wrong = ~(far <= room)
        impossible = torch.zeros_like(wrong)
        if not bool(wrong.any()):
            return point, ~wrong, impossible
        c = self.inside()[rows]
        below = own.value(c)
        impossible = self.work.bound[rows] > room
        able = wrong & (below < 0)
        for _ in range(4):
            far = own.value(point)
            move = able & ~(far <= room)
            if not bool(move.any()):
                break
            share = (far + room) / (far - below)
            share = torch.where(share.isfinite(), share, 1.0).clamp(0, 1)
            point = torch.where(move[:, None], torch.lerp(point, c, share[:, None]), point)
            point = torch.where(move[:, None], point.to(self.arguments.dtype).double(), point)
        return point, own.value(point) <= room, impossible

"""Random certified networks: piecewise linear ones of any depth, with skips, slopes, maxima, slopes and convolutions;
smooth ones of every curve that is known; and mixtures of the two."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx


class Skips(nn.Module):
    """Dense layers with a skip from y to each, and leaky slopes."""

    def __init__(self, n: int = 3, width: int = 7, depth: int = 3, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope
        self.y = nn.ModuleList(nn.Linear(n, width) for _ in range(depth))
        self.z = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth - 1))
        self.out, self.tilt = nn.Linear(width, 1), nn.Linear(n, 1)

    def forward(self, y: Tensor) -> Tensor:
        z = F.leaky_relu(self.y[0](y), self.slope)
        for inner, skip in zip(self.z, list(self.y)[1:], strict=True):
            z = F.leaky_relu(inner(z) + skip(y), self.slope)
        return self.out(z) + self.tilt(y)


class Maxima(nn.Module):
    """An absolute value, a maximum of two, the largest of a group, a PReLU, concatenation with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(7, 6), nn.Linear(4, 1)
        self.slope = nn.PReLU(6)

    def forward(self, y: Tensor) -> Tensor:
        z = torch.maximum(self.a(y).abs(), self.b(y))
        z = self.slope(self.c(torch.cat([z, y], 1)))
        return self.out(torch.cat([z.amax(1, keepdim=True), z[:, :3].clamp(min=0.1)], 1)).squeeze(1)


class Pictures(nn.Module):
    """Convolutions, BatchNorm, overlapping padded max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 2)
        self.out = nn.Linear(2, 1)

    def forward(self, y: Tensor) -> Tensor:
        z = F.max_pool2d(F.relu(self.norm(self.first(y))), 3, stride=2, padding=1)
        return self.out(F.relu(self.second(z)).flatten(1))


class Gated(nn.Module):
    """Partially convex: x slopes the columns of the maps of y and z (Amos et al. 2017, equation 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.gz, self.gy, self.u1, self.u2 = (
            nn.Linear(2, 5), nn.Linear(5, 6), nn.Linear(5, 3), nn.Linear(5, 6), nn.Linear(5, 4),
        )  # fmt: skip
        self.y1, self.y2, self.z, self.out = nn.Linear(3, 6), nn.Linear(3, 4), nn.Linear(6, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        u = torch.relu(self.u(x))
        z = F.leaky_relu(self.y1(y * self.gy(u)) + self.u1(u), 0.1)
        return self.out(torch.relu(self.z(z * torch.relu(self.gz(u))) + self.y2(y) + self.u2(u)))


class Curves(nn.Module):
    """Two layers of one smooth activation, with skips."""

    def __init__(self, activation: Callable[[Tensor], Tensor], n: int = 3, width: int = 6) -> None:
        super().__init__()
        self.activation = activation
        self.a, self.b, self.skip, self.out = (
            nn.Linear(n, width), nn.Linear(width, width), nn.Linear(n, width), nn.Linear(width, 1),
        )  # fmt: skip
        self.tilt = nn.Linear(n, 1)

    def forward(self, y: Tensor) -> Tensor:
        z = self.activation(self.a(y))
        return self.out(self.activation(self.b(z) + self.skip(y))) + self.tilt(y)


class SoftMaxima(nn.Module):
    """A sum of squares of convex, non-negative functions, an exponential, and soft maxima of groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(3, 3), nn.Linear(4, 1)

    def forward(self, y: Tensor) -> Tensor:
        z = F.softplus(self.a(y)).square()
        z = self.b(z).unflatten(1, (2, 2)).logsumexp(2).repeat(1, 2)
        return self.out(z) + (0.3 * self.c(y)).exp().sum(1, keepdim=True) + (y * y).sum(1, keepdim=True)


class Bowl(nn.Module):
    """Kinks and a quadratic term: strongly convex, and not smooth."""

    def __init__(self, n: int = 3) -> None:
        super().__init__()
        self.kinks, self.weight = Skips(n, depth=2), nn.Parameter(0.5 + torch.rand(n))

    def forward(self, y: Tensor) -> Tensor:
        return self.kinks(y) + y.square() @ self.weight[:, None]


def library(name: str) -> nn.Module:
    """A network of `convexnet.nn`, convex by construction."""
    if name == "PICNN":
        return cx.nn.PICNN(2, 3, hidden=(6, 5), activation="softplus")
    if name == "FICNN with a quadratic term":
        return cx.nn.FICNN(3, hidden=(6, 5), activation="relu", quadratic=1)
    if name == "ConvFICNN":
        return cx.nn.ConvFICNN((1, 4, 4), [(3, 3, 1)], hidden=(4,), activation="relu")
    if name == "ConvPICNN":
        return cx.nn.ConvPICNN((1, 4, 4), (1, 4, 4), [(2, 3, 1)], hidden=(4,), activation="relu")
    return cx.nn.ICRNN(2, hidden=(4,), activation="relu", outputs="last")


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    **{f"depth {d}": (lambda d=d: Skips(depth=d), ((3,),)) for d in (1, 2, 3, 6)},
    "leaky": (lambda: Skips(depth=3, slope=0.2), ((3,),)),
    "first slope negative": (lambda: nn.Sequential(nn.Linear(3, 9), nn.LeakyReLU(-0.5), nn.Linear(9, 1)), ((3,),)),
    "one variable": (lambda: Skips(n=1, depth=2), ((1,),)),
    "maxima": (Maxima, ((3,),)),
    "pictures": (Pictures, ((1, 4, 4),)),
    "gated": (Gated, ((2,), (3,))),
}


CURVED: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "softplus": (lambda: Curves(F.softplus), ((3,),)),
    "elu": (lambda: Curves(F.elu), ((3,),)),
    "celu": (lambda: Curves(lambda a: F.celu(a, 0.5)), ((3,),)),
    "soft maxima": (SoftMaxima, ((3,),)),
    "PICNN": (lambda: library("PICNN"), ((2,), (3,))),
}
"""Smooth ones (ELU and CELU have a second derivative that jumps)."""

MIXED: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "elu of half the slope": (lambda: Curves(lambda a: F.elu(a, 0.5)), ((3,),)),
    "kinks and a bowl": (Bowl, ((3,),)),
    "FICNN with a quadratic term": (lambda: library("FICNN with a quadratic term"), ((3,),)),
}
"""Kinks and curves."""

LIBRARY: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "ConvFICNN": (lambda: library("ConvFICNN"), ((1, 4, 4),)),
    "ConvPICNN": (lambda: library("ConvPICNN"), ((1, 4, 4), (1, 4, 4))),
    "ICRNN": (lambda: library("ICRNN"), ((3, 2),)),
}
"""Piecewise linear networks of `convexnet.nn`."""

FAMILIES = NETWORKS | CURVED | MIXED | LIBRARY


def built(name: str, seed: int) -> tuple[nn.Module, list[tuple[int, ...]]]:
    """A network of the table in float64, constrained to be convex in its last input."""
    build, shapes = FAMILIES[name]
    with torch.random.fork_rng(devices=[]):  # what a test draws next must not depend on who was the first to build
        torch.manual_seed(seed)
        model = build().double().eval()
    example = tuple(torch.zeros(2, *shape, dtype=torch.float64) for shape in shapes)
    cx.constrain(model, example, method="absolute", wrt=len(shapes) - 1)
    return model, list(shapes)


@functools.cache
def shared(name: str, seed: int) -> tuple[nn.Module, list[tuple[int, ...]]]:
    """`built`, once, and traced once, for all tests with this seed; a test that changes it takes a seed of its own."""
    return built(name, seed)

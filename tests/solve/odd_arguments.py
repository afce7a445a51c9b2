"""Energies of whole layers with unusual settings, and of other inputs of every type, drawn by a seed: see `energies`.

`energies` gives operators the settings of their oracles. Users reach the same operators through layers whose settings
are seldom written, and hand over labels, masks and counts beside real numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.solve.energies import Drawn

CHANNELS, LENGTH = 2, 6


def layers(r: random.Random) -> list[nn.Module]:
    """A layer of each kind with drawn settings, for (B, 2, L)."""
    c = CHANNELS
    pad = r.choice([0, 1])
    return [
        nn.Conv1d(c, c, r.choice([1, 2, 3]), stride=r.choice([1, 2]), padding=pad, dilation=r.choice([1, 2]),
                  groups=r.choice([1, c]), padding_mode=r.choice(["zeros", "circular", "replicate", "reflect"])),
        nn.ConvTranspose1d(c, c, 2, stride=r.choice([1, 2]), groups=r.choice([1, c])),
        nn.AvgPool1d(2, stride=r.choice([1, 2]), padding=pad, ceil_mode=r.random() < 0.5,
                     count_include_pad=r.random() < 0.5),
        nn.MaxPool1d(r.choice([2, 3]), stride=r.choice([1, 2]), padding=pad, dilation=r.choice([1, 2]),
                     ceil_mode=r.random() < 0.5),
        nn.LPPool1d(r.choice([1, 2]), 2, stride=r.choice([1, 2]), ceil_mode=r.random() < 0.5),
        nn.AdaptiveAvgPool1d(r.choice([1, 3, 4])),
        nn.AdaptiveMaxPool1d(r.choice([1, 2, 4])),
        nn.BatchNorm1d(c, affine=r.random() < 0.5, eps=r.choice([1e-5, 1.0])),
        nn.Upsample(scale_factor=r.choice([1, 2]), mode=r.choice(["nearest", "linear"])),
        nn.ConstantPad1d((pad, 2 * pad), r.uniform(-1, 1)),
        nn.ReplicationPad1d((1, pad)),
        nn.ReflectionPad1d((1, pad)),
        nn.Softplus(r.choice([0.25, 1, 8]), r.choice([20, 50])),
        nn.LeakyReLU(r.choice([-0.5, 0.0, 0.3, 1.0, 2.0])),
        nn.ELU(r.choice([0.1, 1.0, 1.5])),
        nn.CELU(r.choice([0.25, 3.0])),
        nn.PReLU(r.choice([1, c]), init=r.choice([-0.3, 0.25, 1.5])),
        nn.Threshold(r.choice([0.0, -0.5, 0.5]), r.choice([0.0, -0.5, 0.5])),
        nn.Hardtanh(r.choice([-1.0, 0.0]), r.choice([1.0, 1e3])),
        nn.Hardsigmoid(), nn.ReLU6(), nn.Softshrink(r.choice([0.0, 0.5])), nn.Hardshrink(0.3), nn.LogSigmoid(),
        nn.LogSoftmax(r.choice([1, 2, -1])), nn.Dropout(0.5), nn.Identity(),
    ]  # fmt: skip


class Layered(nn.Module):
    """scale (sign · Σ layers(affine(y)) + a term with a minimum) + offset."""

    def __init__(self, r: random.Random, n: int) -> None:
        super().__init__()
        self.enter = nn.Linear(n, CHANNELS * LENGTH)
        kinds = [r.randrange(27) for _ in range(r.choice([1, 2, 3]))]
        self.layers = nn.ModuleList(layers(r)[kind] for kind in kinds)
        for layer in self.layers:
            weight: Any = getattr(layer, "weight", None)
            if isinstance(weight, Tensor) and r.random() < 0.7 and not isinstance(layer, nn.PReLU):
                weight.data.abs_()
        self.sign, self.scale, self.offset = 1.0, r.choice([1.0, 1.0, 1e-6, 1e4]), r.choice([0.0, 0.0, 1e3])
        self.middle = nn.Buffer(torch.rand(n) * 2 - 1)

    def forward(self, y: Tensor) -> Tensor:
        x = self.enter(y).unflatten(1, (CHANNELS, LENGTH))
        for layer in self.layers:
            x = layer(x)
        total = self.sign * x.flatten(1).sum(1) + (y - self.middle).abs().sum(1)
        return self.scale * total + self.offset


KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
USES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda c, y: (y - c).abs(),
    lambda c, y: (y - c.to(y.dtype)).square(),
    lambda c, y: torch.where(c > 0, y.abs(), y.exp()),
    lambda c, y: y.abs() * (c != 0),
    lambda c, y: y.abs() * c.abs().type_as(y) if c.dtype != torch.bool else y.square() * c,
    lambda c, y: F.softplus(y + c) * 2,
    lambda c, y: (y.unsqueeze(2) - torch.tensor([-0.5, 0.0, 0.5], dtype=y.dtype)).abs().amax(2).mul(c.exp()),
    lambda c, y: y.square().gather(1, c.long().clamp(0, y.shape[1] - 1)),
    lambda c, y: (y.exp() / (2 + c * c)).clamp(min=c.to(y.dtype).abs() / 4),
)


class Beside(nn.Module):
    """scale · Σ uses of c and y + a term with a minimum."""

    def __init__(self, r: random.Random, count: int) -> None:
        super().__init__()
        self.uses = [r.choice(USES) for _ in range(count)]
        self.scale, self.offset = r.choice([1.0, 1.0, 1e-6, 1e4]), r.choice([0.0, 0.0, 1e3])

    def forward(self, *inputs: Tensor) -> Tensor:
        *given, y = inputs
        total = (y - 0.3).abs().sum(1)
        for use, c in zip(self.uses, given, strict=True):
            total = total + use(c, y).sum(1)
        return self.scale * total + self.offset


def drawn_oddly(seed: int) -> Drawn | None:
    """The energy of a seed; None where it does not run, or is not convex with either sign."""
    r = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    n, kind = r.choice([1, 2, 3, 4]), r.choice([torch.float32, torch.float64])
    box = cx.Box(-1.0, 1.0, shape=(n,)) if r.random() < 0.7 else cx.Box(-30.0, 50.0, shape=(n,))
    y = torch.zeros(2, n, dtype=kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = Layered(r, n) if r.random() < 0.5 else Beside(r, r.choice([1, 2]))
    given: tuple[Tensor, ...] = ()
    if isinstance(model, Beside):
        kinds = [r.choice(KINDS) for _ in model.uses]
        numbers = [torch.randn(2, n, generator=generator) * 2 for _ in kinds]
        given = tuple((c.abs() if k == torch.uint8 else c).to(k) for c, k in zip(numbers, kinds, strict=True))
    model = model.to(kind).eval()
    about = f"drawn_oddly({seed}): {model}, n={n}, {kind}, given {[c.dtype for c in given]}, box {float(box.hi.max())}"
    for sign in (1.0, -1.0):
        model.sign = sign  # pyright: ignore[reportArgumentType]
        try:
            with torch.no_grad():
                model(*given, y)
            if cx.certify(model, (*given, y), wrt=len(given), domain=box).convex:
                return Drawn("odd", None, model, given, box, about)  # pyright: ignore[reportArgumentType]
        except (RuntimeError, IndexError, NotImplementedError, cx.NotTraceable, ValueError):
            return None
        if isinstance(model, Beside):
            return None
    return None

"""Networks that are convex but for a few weights: one weight in a hundred is negative, and a tenth of its usual size.

Weights that have to be non-negative are half-normal, the others normal. Biases are such that each unit is active for
about half of normal inputs, as normalisation and training make them; otherwise whole layers are idle or linear, and
nothing can happen there. A unit with one slightly negative weight among many does harm only where the units that the
others lead to are idle, which no random point meets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS, WIDTH, SIDE = 6, 24, 8
LOWEST = (0.5, -0.5, -0.5, 0.5)  # weight, bias, mean and variance of a BatchNorm; the largest are one more


class MLP(nn.Module):
    """Layers one after the other; with `direct`, each also sees the input."""

    def __init__(self, depth: int, activation: Callable[[], nn.Module], direct: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, 1)
        self.inner = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth - 2))
        self.direct = nn.ModuleList(nn.Linear(INPUTS, WIDTH) for _ in self.inner if direct)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        z = self.activation(self.first(x))
        for i, layer in enumerate(self.inner):
            z = self.activation(layer(z) + self.direct[i](x) if len(self.direct) else layer(z))
        return self.last(z)

    def nonnegative(self) -> list[Tensor]:
        return [weight_of(layer) for layer in [*self.inner, self.last]]


class Dense(nn.Module):
    """Each layer sees the input and all layers before it."""

    def __init__(self, activation: Callable[[], nn.Module], growth: int = 8, depth: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(INPUTS + growth * i, growth) for i in range(depth))
        self.last = nn.Linear(INPUTS + growth * depth, 1)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, self.activation(layer(x))], 1)
        return self.last(x)

    def nonnegative(self) -> list[Tensor]:
        return [weight_of(layer)[:, INPUTS:] for layer in [*list(self.layers)[1:], self.last]]


class Conv(nn.Module):
    """Three convolutions of a small image, perhaps with BatchNorm and a maximum over windows."""

    def __init__(self, activation: Callable[[], nn.Module], norm: bool = False, pool: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (1, 6, 6):
            layers += [nn.Conv2d(channels, 6, 3), *([nn.BatchNorm2d(6)] if norm else []), activation()]
            layers += [nn.MaxPool2d(2, stride=1)] if pool and channels == 1 else []
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(6 if pool else 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x).flatten(1))

    def nonnegative(self) -> list[Tensor]:
        convolutions = [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
        return [weight_of(layer) for layer in [*convolutions[1:], self.last]]


def weight_of(layer: nn.Module) -> Tensor:
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    return layer.weight


def softplus() -> nn.Module:
    return nn.Softplus(beta=5.0)


ARCHITECTURES: dict[str, Callable[[], MLP | Dense | Conv]] = {
    "3 layers": lambda: MLP(3, nn.ReLU),
    "4 layers": lambda: MLP(4, nn.ReLU),
    "5 layers": lambda: MLP(5, nn.ReLU),
    "6 layers": lambda: MLP(6, nn.ReLU),
    "4 layers, leaky": lambda: MLP(4, nn.LeakyReLU),
    "pass-through": lambda: MLP(5, nn.ReLU, direct=True),
    "pass-through, ELU": lambda: MLP(4, nn.ELU, direct=True),
    "pass-through, softplus": lambda: MLP(4, softplus, direct=True),
    "DenseNet": lambda: Dense(nn.ReLU),
    "convolutions": lambda: Conv(nn.ReLU),
    "convolutions, BatchNorm": lambda: Conv(nn.ReLU, norm=True),
    "convolutions, max-pool": lambda: Conv(nn.ReLU, pool=True),
}

SEEDS: dict[str, tuple[int, ...]] = {
    "3 layers": (0, 1, 2, 3),
    "4 layers": (0, 1, 2, 3),
    "5 layers": (0, 1, 3, 5),
    "6 layers": (1, 2, 4, 6),
    "4 layers, leaky": (5, 14, 17, 23),
    "pass-through": (0, 1, 3, 4),
    "pass-through, ELU": (17, 29, 53, 104),
    "pass-through, softplus": (16, 18, 28, 37),
    "DenseNet": (2, 31, 33, 39),
    "convolutions": (0, 1, 2, 3),
    "convolutions, BatchNorm": (0, 1, 2, 3),
    "convolutions, max-pool": (0, 2, 3, 4),
}
"""Networks with a known violation: some search found one, with this seed or another, or with ten times the budget. Most
other seeds of the leaky, smooth and dense networks are convex in spite of their negative weights."""


def example(architecture: str) -> Tensor:
    return torch.zeros(2, 1, SIDE, SIDE) if architecture.startswith("conv") else torch.zeros(2, INPUTS)


@torch.no_grad()
def networks(architecture: str, seed: int, share: float = 0.01, size: float = 0.1) -> tuple[nn.Module, nn.Module]:
    """A convex network, and the same with some weights negative; both float32, in eval mode."""
    random_state = torch.get_rng_state()
    net = ARCHITECTURES[architecture]().eval()
    torch.set_rng_state(random_state)
    generator = torch.Generator().manual_seed(1_000 * list(ARCHITECTURES).index(architecture) + seed)
    constrained = net.nonnegative()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in zip(
                (module.weight, module.bias, module.running_mean, module.running_var), LOWEST, strict=True
            ):
                assert tensor is not None
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            size = module.weight[0].numel() ** -0.5
            module.weight.copy_(size * torch.randn(module.weight.shape, generator=generator))
    for weight in constrained:
        weight.abs_()

    def centre(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, (nn.Linear, nn.Conv2d))
        weight = module.weight
        out = F.linear(inputs[0], weight) if isinstance(module, nn.Linear) else F.conv2d(inputs[0], weight)
        out = out.movedim(1, 0).flatten(1)
        assert module.bias is not None
        module.bias.copy_(-out.median(1).values + 0.5 * out.std(1) * torch.randn(len(out), generator=generator))

    hooks = [m.register_forward_pre_hook(centre) for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    net(torch.randn(256, *example(architecture).shape[1:], generator=generator))
    for hook in hooks:
        hook.remove()
    convex = copy.deepcopy(net)
    for weight in constrained:
        mask = torch.rand(weight.shape, generator=generator) < share
        weight[mask] *= -size
    return convex, net

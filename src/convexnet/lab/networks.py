"""The networks of the demo."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def mlp(
    inputs: int, outputs: int, *, width: int, depth: int, activation: Callable[[], nn.Module], seed: int
) -> nn.Sequential:
    """The paper's MLP, `depth` times linear -> BatchNorm -> activation and a linear head; (B, inputs) -> (B, outputs).

    Default PyTorch initialisation drawn from `seed`; the global random state is left alone.
    Source: Sivaprasad et al. 2021, section 4.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for layer in range(depth):
            layers += [nn.Linear(inputs if layer == 0 else width, width), nn.BatchNorm1d(width), activation()]
        return nn.Sequential(*layers, nn.Linear(width, outputs))


def two_convex_functions() -> nn.Sequential:
    """Two hand-set convex functions of one variable, (B, 1) -> (B, 2), whose argmax changes four times (Fig. 3a).

    The first output is 0.5 + 2 max(|x| - 1, 0), the second |x|. All weights after the ReLU are non-negative.
    """
    network = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
    parameters = {
        "0.weight": torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]),
        "0.bias": torch.tensor([0.0, 0.0, -1.0, -1.0]),
        "2.weight": torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 0.0, 0.0]]),
        "2.bias": torch.tensor([0.5, 0.0]),
    }
    network.load_state_dict(parameters)
    return network


def intervals(difference: Tensor) -> int:
    """How many runs of equal sign a sampled function (N,) has; N points in order.

    Example:
        >>> intervals(torch.tensor([-1.0, -2.0, 3.0, 1.0, -1.0]))
        3
    """
    positive = difference > 0
    return int((positive[1:] != positive[:-1]).sum()) + 1

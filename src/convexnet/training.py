"""What the learners of ensembles, energies and control share: batches by number, constraints, steps, what is kept."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from convexnet.constraints import Cone
from convexnet.constraints.constrain import Kept
from convexnet.learner import Point, seed_generators
from convexnet.memory import CONSTRAINT, recall


@dataclass(frozen=True)
class History:
    """What was measured while an ensemble learnt.

    Attributes:
        points: one dictionary of numbers for each iteration or epoch.
        remarks: sentences about what went wrong on the way, such as an expert that receives no data.

    Example:
        >>> History([{"iteration": 1.0, "log_likelihood": -0.5}]).log_likelihood
        [-0.5]
    """

    points: list[Point]
    remarks: tuple[str, ...] = ()

    @property
    def log_likelihood(self) -> list[float]:
        """Return the (penalised) mean log-likelihood in nats, one value for each point that has one."""
        return [point["log_likelihood"] for point in self.points if "log_likelihood" in point]


def derived_seed(*parts: int | str) -> int:
    """Return a seed that depends on all parts, so that what is drawn depends on where a learner is and nothing else.

    Example:
        >>> derived_seed(0, "order", 1) == derived_seed(0, "order", 1), derived_seed(0, 1) == derived_seed(1, 0)
        (True, False)
    """
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def batches(count: int, size: int, seed: int) -> list[Tensor]:
    """Return the rows of every batch of one pass; a last one of a single row joins the one before it.

    BatchNorm makes nothing of a single row.

    Example:
        >>> [len(rows) for rows in batches(9, 4, seed=0)], [len(rows) for rows in batches(10, 4, seed=0)]
        ([4, 5], [4, 4, 2])
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = list(order.split(size))
    return [*parts[:-2], torch.cat(parts[-2:])] if len(parts) > 1 and len(parts[-1]) == 1 else parts


@contextlib.contextmanager
def drawing(seed: int, device: torch.device) -> Generator[None]:
    """Let torch draw from a seed, and leave its generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_generators(seed)
        yield


def cones_of(model: nn.Module) -> list[Cone]:
    """Return the cone of every part that `constrain`, `convexify` or a layer of `convexnet.nn` has constrained.

    Example:
        >>> from convexnet import constrain
        >>> expert = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> _ = constrain(expert, torch.zeros(1, 2), method="clip")
        >>> cones_of(nn.ModuleList([expert, nn.Linear(2, 2)]))
        [Cone(1 parameter of Sequential, by Clip())]
    """
    kept: list[tuple[nn.Module, Kept | None]] = [(part, recall(part, CONSTRAINT)) for part in model.modules()]
    return [Cone(part, found.intervals, found.method) for part, found in kept if found is not None]


def optimiser_of(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return Adam for what trains in a model, with its constraints attached.

    Raises:
        ValueError: everything is frozen.

    Example:
        >>> optimiser_of(nn.Linear(1, 1).requires_grad_(False), 0.1)
        Traceback (most recent call last):
        ValueError: nothing is left to train: every parameter is frozen
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("nothing is left to train: every parameter is frozen")
    optimiser = torch.optim.Adam(parameters, lr=rate)
    held = {id(parameter) for parameter in parameters}
    for cone in cones_of(model):
        if any(id(parameter) in held for parameter in cone.model.parameters()):
            cone.attach(optimiser)
    return optimiser


def keeps_statistics(part: nn.Module) -> bool:
    """Whether a layer has running statistics, which a pass in training mode moves at any learning rate, 0 included.

    Example:
        >>> keeps_statistics(nn.BatchNorm1d(2)), keeps_statistics(nn.LayerNorm(2))
        (True, False)
    """
    return isinstance(part, _NormBase) and part.track_running_stats


def train_mode(model: nn.Module, statistics: bool = True) -> None:
    """Put a model in training mode, except for what is frozen whole: its BatchNorm would go on moving.

    Args:
        model: any.
        statistics: False: all layers with running statistics stay in eval mode, and use them as they are.

    Example:
        >>> pair = nn.ModuleList([nn.BatchNorm1d(2).requires_grad_(False), nn.Linear(2, 1), nn.BatchNorm1d(2)])
        >>> train_mode(pair)
        >>> [part.training for part in pair]
        [False, True, True]
        >>> train_mode(pair, statistics=False)
        >>> [part.training for part in pair]
        [False, True, False]
    """
    model.train()
    for part in model.modules():
        parameters = list(part.parameters())
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if frozen or (not statistics and keeps_statistics(part)):
            part.eval()


def penalised(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a penalty acts on: those that train and have more than one dimension."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]


def descend(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    rate: float,
    seed: int,
    device: torch.device,
    loss_of: Callable[[], Tensor],
    penalty: float = 0.0,
    statistics: bool = True,
) -> float:
    """Take one step of an optimiser down a loss and penalty/2 ‖θ‖², in training mode; return the loss alone.

    Without `statistics`, BatchNorm's stay as they are (`train_mode`).

    Example:
        >>> net = nn.Linear(1, 1)
        >>> descend(net, torch.optim.SGD(net.parameters()), 0.1, 0, torch.device("cpu"), lambda: net.bias.sum() * 0)
        0.0
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
    train_mode(model, statistics)
    with drawing(seed, device):
        loss = whole = loss_of()
        if penalty:
            squares = [parameter.square().sum() for parameter in penalised(model)]
            whole = loss + penalty / 2 * torch.stack(squares).sum()
        optimiser.zero_grad()
        whole.backward()
        optimiser.step()
    return float(loss.detach())


def snapshot(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return copies of all tensors of a model and an optimiser, to go back to.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> kept = snapshot(net, torch.optim.SGD(net.parameters(), lr=1.0))
        >>> _ = net.weight.data.add_(1.0)
        >>> bool(kept["model"]["weight"] == net.weight)
        False
    """
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return {"model": weights, "optimiser": copy.deepcopy(optimiser.state_dict())}


def go_back(model: nn.Module, optimiser: torch.optim.Optimizer, kept: dict[str, Any]) -> None:
    """Give a model and an optimiser what a `snapshot` holds."""
    model.load_state_dict(kept["model"])
    # An optimiser takes over the tensors it is given, and would change those of the snapshot.
    optimiser.load_state_dict(copy.deepcopy(kept["optimiser"]))


def check_counts(**numbers: Any) -> None:
    """Raise where a count is not a positive integer.

    Example:
        >>> check_counts(rounds=0)
        Traceback (most recent call last):
        ValueError: rounds must be a positive integer, not 0
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")


def check_rate(value: Any, name: str = "learning_rate", zero: bool = False) -> None:
    """Raise where a number is not finite and positive; with `zero`, 0 is allowed."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < float("inf") or (value == 0 and not zero):
        raise ValueError(f"{name} must be a finite number {'>= 0' if zero else '> 0'}, not {value!r}")


def cosine(top: float, done: float) -> float:
    """Return a rate that falls from `top` to 0 as `done` goes from 0 to 1.

    Example:
        >>> cosine(0.2, 0.0), round(cosine(0.2, 0.5), 6)
        (0.2, 0.1)
    """
    return top * (1 + math.cos(math.pi * done)) / 2


def nothing(point: Point) -> None:
    """Do nothing with a point."""


def total(values: Iterable[Tensor]) -> Tensor:
    """Return the sum of scalars; 0 if there are none."""
    return sum(values, start=torch.zeros(()))

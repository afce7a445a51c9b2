"""What experts and gates compute: checked shapes, log-probabilities of classes, mixtures of them, and the oracle."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 1024
"""Samples that are evaluated at once."""


def as_experts(experts: Iterable[nn.Module]) -> nn.ModuleList:
    """Return experts as a list of modules.

    Raises:
        TypeError: something is not a module.
        ValueError: there is none, or one stands there twice.

    Example:
        >>> as_experts([])
        Traceback (most recent call last):
        ValueError: an ensemble needs at least one expert
    """
    found = list(experts)
    for index, expert in enumerate(found):
        if not isinstance(expert, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"expert {index} must be an nn.Module, not {type(expert).__name__}")
        if any(expert is other for other in found[:index]):
            raise ValueError(f"expert {index} is the same module as an earlier one: experts need weights of their own")
    if not found:
        raise ValueError("an ensemble needs at least one expert")
    return nn.ModuleList(found)


def as_gate(gate: nn.Module) -> nn.Module:
    """Return a gate.

    Raises:
        TypeError: it is not a module.
    """
    if not isinstance(gate, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the gate must be an nn.Module, not {type(gate).__name__}")
    return gate


def logits_of(expert: nn.Module, x: Tensor, name: str) -> Tensor:
    """Return the outputs of an expert or a gate for x (B, ...) as (B, K); outputs (B,) count as (B, 1).

    Raises:
        ValueError: it computes something of another shape.

    Example:
        >>> logits_of(nn.Linear(2, 1), torch.zeros(3, 2), "expert 0").shape
        torch.Size([3, 1])
    """
    found = expert(x)
    if not isinstance(found, Tensor) or found.ndim not in (1, 2) or len(found) != len(x) or found.numel() == 0:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{name} must map x (B, ...) to logits (B, K) or (B,); for {len(x)} samples it gives {shape}")
    return found[:, None] if found.ndim == 1 else found


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the log-probabilities (..., classes) of logits (..., K); one logit is that of class 1 against class 0.

    Example:
        >>> log_probabilities(torch.zeros(1, 1)).exp(), log_probabilities(torch.zeros(1, 4)).exp()
        (tensor([[0.5000, 0.5000]]), tensor([[0.2500, 0.2500, 0.2500, 0.2500]]))
    """
    if logits.shape[-1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], -1)
    return F.log_softmax(logits, -1)


def logits_of_all(experts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Return the outputs of all experts, (B, experts, K).

    Raises:
        ValueError: the experts have different numbers of outputs, or outputs of a wrong shape.

    Example:
        >>> logits_of_all([nn.Linear(2, 1), nn.Linear(2, 1)], torch.zeros(3, 2)).shape
        torch.Size([3, 2, 1])
    """
    return stacked([logits_of(expert, x, f"expert {index}") for index, expert in enumerate(experts)])


def stacked(logits: Sequence[Tensor]) -> Tensor:
    """Return the outputs (B, K) of each expert as (B, experts, K).

    Raises:
        ValueError: the experts have different numbers of outputs.

    Example:
        >>> stacked([torch.zeros(3, 1), torch.zeros(3, 2)])
        Traceback (most recent call last):
        ValueError: the experts have 1, 2 outputs: an ensemble needs the same number
    """
    widths = [part.shape[1] for part in logits]
    if len(set(widths)) > 1:
        raise ValueError(f"the experts have {', '.join(map(str, widths))} outputs: an ensemble needs the same number")
    return torch.stack(list(logits), 1)


def log_gate(gate: nn.Module, x: Tensor, count: int) -> Tensor:
    """Return log g_j(x), (B, experts): the log-softmax of what a gate computes.

    Raises:
        ValueError: the gate does not have one output for each expert.

    Example:
        >>> log_gate(nn.Linear(2, 3), torch.zeros(4, 2), 3).exp().sum(1).allclose(torch.ones(4))
        True
    """
    logits = logits_of(gate, x, "the gate")
    if logits.shape[1] != count:
        raise ValueError(f"the gate has {logits.shape[1]} outputs and there are {count} experts: give it one for each")
    return F.log_softmax(logits, 1)


def mixed(gates: Tensor, experts: Tensor) -> Tensor:
    """Return log Σ_j g_j p_j(k), (B, classes), of log g (B, experts) and log p (B, experts, classes).

    Example:
        >>> mixed(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[[0.2, 0.8], [0.6, 0.4]]]).log()).exp()
        tensor([[0.4000, 0.6000]])
    """
    return torch.logsumexp(gates[:, :, None] + experts, 1)


def joint(gates: Tensor, experts: Tensor, y: Tensor) -> Tensor:
    """Return log g_j(x) + log p_j(y | x), (B, experts), of log g (B, experts) and log p (B, experts, classes).

    Example:
        >>> joint(
        ...     torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[[0.2, 0.8], [0.6, 0.4]]]).log(), torch.tensor([1])
        ... ).exp()
        tensor([[0.4000, 0.2000]])
    """
    chosen = y.to(experts.device).long()[:, None, None].expand(-1, experts.shape[1], 1)
    return gates + experts.gather(2, chosen)[:, :, 0]


def as_outputs(log_probability: Tensor, single: bool) -> Tensor:
    """Return log-probabilities (B, classes) as an ensemble returns them: a logit (B, 1) where experts have one output.

    Example:
        >>> as_outputs(torch.tensor([[0.5, 0.5]]).log(), single=True)
        tensor([[0.]])
    """
    return log_probability[:, 1:] - log_probability[:, :1] if single else log_probability


def gated(experts: nn.ModuleList, gate: nn.Module, x: Tensor) -> Tensor:
    """Return what experts and a gate make of x (B, ...): log-probabilities (B, K), or the logit (B, 1) of class 1.

    Example:
        >>> gated(as_experts([nn.Linear(2, 3)]), nn.Linear(2, 1), torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """
    logits = logits_of_all(experts, x)
    found = mixed(log_gate(gate, x, len(experts)), log_probabilities(logits))
    return as_outputs(found, single=logits.shape[2] == 1)


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Generator[None]:
    """Put modules in eval mode without gradients, and give every part its own mode back.

    Example:
        >>> net = nn.Dropout()
        >>> with evaluating(net):
        ...     net.training
        False
        >>> net.training
        True
    """
    flags = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in flags:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part, flag in flags:
            part.training = flag


def device_of(module: nn.Module) -> torch.device:
    """Return where the parameters of a module lie; the CPU if it has none."""
    return next((tensor.device for tensor in module.parameters()), torch.device("cpu"))


def classes_of(outputs: Tensor) -> Tensor:
    """Return the class (B,) that outputs (B, K) name: the largest, or the sign of a single one.

    Example:
        >>> classes_of(torch.tensor([[-1.0], [2.0]])), classes_of(torch.tensor([[-1.0, 2.0, 0.0]]))
        (tensor([0, 1]), tensor([1]))
    """
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def predict(module: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs of a module for x (N, ...) in eval mode, some rows at a time, on the CPU.

    Example:
        >>> predict(nn.Linear(2, 1), torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    device = device_of(module)
    with evaluating(module):
        return torch.cat([logits_of(module, part.to(device), "the network").cpu() for part in x.split(ROWS)])


def oracle_accuracy(experts: Iterable[nn.Module], x: Tensor, y: Tensor) -> float:
    """Return the share of samples that at least one expert classifies correctly: an upper bound for every gate.

    Args:
        experts: modules (B, ...) -> (B, K).
        x: inputs (N, ...).
        y: classes (N,).

    Raises:
        ValueError, TypeError: no experts, or x and y of different lengths.

    Source: Sivaprasad et al. 2021, section 4 and table 6.

    Example:
        >>> left, right = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> for expert, bias in ((left, -1.0), (right, 1.0)):  # one says always 0, the other always 1
        ...     _ = expert.weight.data.zero_(), expert.bias.data.fill_(bias)
        >>> oracle_accuracy([left, right], torch.zeros(3, 1), torch.tensor([0, 1, 1]))
        1.0
    """
    y = torch.as_tensor(y).detach().cpu()
    if y.ndim != 1 or len(y) != len(x) or len(y) == 0:
        raise ValueError(f"x has {len(x)} samples and y has the shape {tuple(y.shape)}: give one class for each")
    right = [classes_of(predict(expert, x)) == y for expert in as_experts(experts)]
    return float(torch.stack(right).any(0).double().mean())

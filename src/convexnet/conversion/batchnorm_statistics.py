"""BatchNorm's statistics after a conversion, and whether the converted network overflows.

Behind weights that were projected the old running statistics are those of another network, and what they do not take
out any more is added up from layer to layer, by weights of one sign: deep networks overflow. So every BatchNorm whose
input has changed gets new statistics, those of one batch: of the example where it looks like data, else of noise.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from convexnet.curvature.arguments import two_rows
from convexnet.curvature.tracing.restored_state import evaluating

BatchNorm = nn.modules.batchnorm._BatchNorm  # pyright: ignore[reportPrivateUsage]

DATA = 16
"""An example of at least this many rows, not all of them equal, is taken for data."""

FEWEST, MOST = 8, 128
"""Rows of noise, of large and of small inputs: the latter may have one value a feature."""

COMPARED = 4
"""Rows on which a norm must see what it saw before the conversion for its statistics to be left alone."""


class Probe(NamedTuple):
    """A batch to estimate statistics on, and whether it is the caller's data."""

    inputs: tuple[Tensor, ...]
    is_data: bool


def probe_of(example: tuple[Tensor, ...]) -> Probe:
    """Rows of the example where it looks like data, else noise in its shape: numbers of mean 0 and variance 1.

    Half the variance of a pixel is that of its channel's mean, as in pictures, where pixels are alike. Inputs that are
    not real numbers are those of the example.

    Example:
        >>> probe_of((torch.zeros(1, 3, 8, 8),)).inputs[0].shape, probe_of((torch.randn(20, 2),)).is_data
        (torch.Size([128, 3, 8, 8]), True)
    """
    rows = min(len(tensor) for tensor in example)
    size = max(sum(tensor[0].numel() for tensor in example), 1)
    varied = any(bool((tensor != tensor[:1]).any()) for tensor in example)
    if rows >= DATA and varied:
        return Probe(tuple(tensor.detach()[: max(DATA, 2**20 // size)] for tensor in example), True)
    rows = min(MOST, max(FEWEST, 2**17 // size))
    generator = torch.Generator().manual_seed(0)

    def drawn(tensor: Tensor) -> Tensor:
        shape = (rows, *tensor.shape[1:])
        if not tensor.is_floating_point():
            return tensor.detach()[torch.arange(rows) % len(tensor)]
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 2:
            common = torch.randn(*shape[:2], *[1] * (len(shape) - 2), generator=generator)
            noise = (noise + common) / 2**0.5
        return noise.to(tensor.device, tensor.dtype)

    return Probe(tuple(drawn(tensor) for tensor in example), False)


@contextmanager
def hooks_in_eval(model: nn.Module) -> Generator[ExitStack]:
    """Eval mode without gradients; handles of hooks that are entered are removed afterwards."""
    with torch.no_grad(), evaluating(model), ExitStack() as stack:
        yield stack


def summary(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors have in common only if they are equal, or by a rare accident."""
    value = tensor.detach().double()
    weights = torch.linspace(1.0, 2.0, value.numel(), dtype=torch.float64, device=value.device)
    return tuple(tensor.shape), float(value.sum()), float((value.flatten() * weights).sum())


def inputs_of_norms(model: nn.Module, probe: Probe) -> dict[str, tuple[Any, ...]]:
    """A summary of what each BatchNorm of a model sees on a few rows, in eval mode; none if the forward fails."""
    found: dict[str, tuple[Any, ...]] = {}
    with hooks_in_eval(model) as stack:
        for path, norm in norms_of(model).items():

            def note(_: nn.Module, args: tuple[Any, ...], path: str = path) -> None:
                found[path] = (*found.get(path, ()), summary(args[0]))

            stack.callback(norm.register_forward_pre_hook(note).remove)
        try:
            model(*(tensor[:COMPARED] for tensor in probe.inputs))
        except Exception:  # a forward may raise anything; tracing says why
            return {}
    return found


def norms_of(model: nn.Module) -> dict[str, BatchNorm]:
    """The BatchNorms of a model that keep statistics, by path."""
    return {p: m for p, m in model.named_modules() if isinstance(m, BatchNorm) and m.running_var is not None}


def estimate_statistics(model: nn.Module, probe: Probe, before: Mapping[str, tuple[Any, ...]]) -> int:
    """Give each BatchNorm that sees something else than before the statistics of the probe; return how many did.

    In one forward: what a norm sees is what the layers before it make of the probe with their new statistics. If that
    fails or overflows, everything stays as it was.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> probe = probe_of((torch.randn(100, 2),))
        >>> before = inputs_of_norms(net, probe)
        >>> estimate_statistics(net, probe, before), bool((net[1].running_var == 1).all())
        (0, True)
        >>> _ = net[0].weight.data.mul_(10.0)
        >>> estimate_statistics(net, probe, before), bool((net[1].running_var == 1).any())
        (1, False)
    """
    now, norms = inputs_of_norms(model, probe), norms_of(model)
    changed = [norms[path] for path, seen in now.items() if before.get(path) != seen]
    if not changed:
        return 0
    saved = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in changed]
    with hooks_in_eval(model):
        for norm in changed:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over its calls; the old value comes back with the other attributes
            norm.training = True
        try:
            model(*probe.inputs)
            if all(bool(buffer.isfinite().all()) for norm in changed for buffer in norm.buffers()):
                return len(changed)
        except Exception:  # what cannot be evaluated on another number of rows keeps what it had
            pass
    for norm, values in zip(changed, saved, strict=True):
        for name, buffer in norm.named_buffers():
            buffer.copy_(values[name])
    return 0


def find_overflow(model: nn.Module, example: tuple[Tensor, ...], probe: Probe) -> str | None:
    """Where a model overflows, on the example or the probe.

    Returns:
        The path of the first layer whose result is infinite or NaN, if the outputs are; None if they are finite.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> _ = net[1].weight.data.fill_(3e38)
        >>> find_overflow(net, (torch.zeros(1, 2),), probe_of((torch.zeros(1, 2),)))
        '1'
    """
    paths: list[str] = []
    with hooks_in_eval(model) as stack:
        for path, module in model.named_modules():

            def note(_: nn.Module, __: object, result: object, path: str = path) -> None:
                if not is_finite(result):
                    paths.append(path)

            stack.callback(module.register_forward_hook(note).remove)
        for inputs in (tuple(two_rows(tensor) for tensor in example), tuple(t[:FEWEST] for t in probe.inputs)):
            paths.clear()
            try:
                lost = is_finite(inputs) and not is_finite(model(*inputs))
            except Exception:
                continue
            if lost:
                return paths[0]
    return None


def is_finite(result: object) -> bool:
    """Whether all the real tensors in a result are finite."""
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return all(bool(leaf.isfinite().all()) for leaf in leaves)

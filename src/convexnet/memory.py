"""What a module remembers about itself: plain data beside its parameters, so that copies and pickles keep it.

`constrain` and `convexify` leave here what later calls need: the shape of one sample of each input (for `bake`, `split`
and `save`, which take no example), the constraint, and the list of changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.curvature.arguments import ONLY as ONLY
from convexnet.curvature.arguments import PART as PART
from convexnet.curvature.arguments import as_example, two_rows, unwrap
from convexnet.curvature.tracing.restored_state import calling

EXAMPLE = "_convexnet_example"
CONSTRAINT = "_convexnet_constraint"
CHANGES = "_convexnet_changes"
CLASSNAMES = "_convexnet_classnames"
PREPARATION = "_convexnet_preparation"

SIDES = (32, 224, 28, 64, 8)
"""Sizes of square images that are tried on a convolutional network whose example was not recorded."""


def recall(model: nn.Module, key: str) -> Any:
    """What the module remembers under a key, or None.

    Example:
        >>> recall(nn.Linear(2, 1), EXAMPLE) is None
        True
    """
    return model.__dict__.get(key)


def remember_example(model: nn.Module, example: Tensor | Sequence[Tensor]) -> None:
    """Record the shape and type of one sample of each input.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> remember_example(net, torch.zeros(5, 2))
        >>> example_of(net)[0].shape
        torch.Size([2, 2])
    """
    inputs = tuple((tuple(tensor.shape[1:]), tensor.dtype) for tensor in as_example(example))
    model.__dict__[EXAMPLE] = inputs


def example_of(model: nn.Module, example: Tensor | Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
    """A batch of two for a model: of the given example, of the recorded one, or guessed from its first layer.

    Raises:
        ValueError: nothing was given or recorded, and no guess runs through the model.

    Example:
        >>> example_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 2)))[0].shape
        torch.Size([2, 3, 28, 28])
    """
    if example is not None:
        return tuple(two_rows(tensor) for tensor in as_example(example))
    inner = unwrap(model)
    recorded = recall(inner, EXAMPLE)
    if recorded is not None:
        device = next((p.device for p in inner.parameters()), torch.device("cpu"))
        return tuple(torch.zeros(2, *shape, dtype=dtype, device=device) for shape, dtype in recorded)
    for guess in guess_inputs(inner):
        if accepts_batch(inner, guess):
            return (guess,)
    raise ValueError(
        f"{type(inner).__name__} has no recorded example (constrain and convexify record one), and none can be guessed "
        "from its first layer: give one, as example=torch.zeros(1, ...)"
    )


def guess_inputs(model: nn.Module) -> Iterator[Tensor]:
    """Inputs that the first layer with weights would take."""
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.BatchNorm1d)):
            width = layer.in_features if isinstance(layer, nn.Linear) else layer.num_features
            yield torch.zeros(2, width, dtype=dtype_of(layer), device=device_of(layer))
            return
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            for side in SIDES:
                sides = [side] * len(layer.kernel_size)
                yield torch.zeros(2, layer.in_channels, *sides, dtype=dtype_of(layer), device=device_of(layer))
            return


def accepts_batch(model: nn.Module, guess: Tensor) -> bool:
    """Whether a batch passes through a model."""
    try:
        with calling(model):
            model(guess)
    except Exception:  # whatever a forward raises: the guess does not fit
        return False
    return True


def dtype_of(layer: nn.Module) -> torch.dtype:
    return next((p.dtype for p in layer.parameters()), torch.get_default_dtype())


def device_of(layer: nn.Module) -> torch.device:
    return next((p.device for p in layer.parameters()), torch.device("cpu"))


def part_of(model: nn.Module, path: str, inputs: Sequence[Tensor]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A submodule, and what it is called with on an example of the whole.

    Raises:
        ValueError: there is no such submodule, or it is not called exactly once.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> part, (seen,) = part_of(net, "1", [torch.zeros(1, 2)])
        >>> part, tuple(seen.shape)
        (ReLU(), (2, 3))
    """
    try:
        target = model.get_submodule(path)
    except AttributeError:
        names = ", ".join([name for name, _ in model.named_modules() if name][:8])
        raise ValueError(f"{path!r} is not a submodule of {type(model).__name__}; it has {names} ...") from None
    caught: list[tuple[Tensor, ...]] = []

    def catch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args)

    handle = target.register_forward_pre_hook(catch)
    try:
        with calling(model):
            model(*(two_rows(tensor) for tensor in inputs))
    finally:
        handle.remove()
    if len(caught) != 1:
        times = "never" if not caught else f"{len(caught)} times"
        raise ValueError(f"{path!r} is called {times} in the forward; to be convex in its input it must be called once")
    return target, caught[0]

"""Attack on claims of convexity by random chords, and the operators of networks once more in plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-10
"""Of a chord in float64, relative to the size of the values."""

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda a: np.maximum(a, 0),
    "leaky_relu": lambda a: np.where(a > 0, a, 0.01 * a),
    "elu": lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))),
    "celu": lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))),
    "softplus": lambda a: np.logaddexp(0, a),
}

POSITIVE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softplus": lambda w: np.logaddexp(0, w),
    "exp": np.exp,
    "square": np.square,
}


@torch.no_grad()
def randomise(model: nn.Module, scale: float, generator: torch.Generator) -> nn.Module:
    """Every parameter normal with this standard deviation, every running statistic random too; float64, eval mode."""
    model.double().eval()
    for parameter in model.parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if "var" in name else 0.0))
    return model


@torch.no_grad()
def worst_chord(
    function: Callable[[Tensor], Tensor], shape: Sequence[int], generator: torch.Generator, chords: int = 256
) -> float:
    """How far a function lies above its chords at worst, relative to the size of its values; negative: below all.

    Ends are drawn at distances from 0.01 to 10, around centres that are as far out.
    """
    size = 10 ** (4 * torch.rand(chords, *[1] * len(shape), generator=generator, dtype=torch.float64) - 2.5)
    ends = torch.randn(2, chords, *shape, generator=generator, dtype=torch.float64) * size
    centre = torch.randn(chords, *shape, generator=generator, dtype=torch.float64) * size.flip(0)
    start, end = ends + centre
    t = torch.rand(chords, *[1] * len(shape), generator=generator, dtype=torch.float64)
    low, high, middle = (function(y).reshape(chords, -1) for y in (start, end, start + t * (end - start)))
    t = t.reshape(chords, 1)
    excess = middle - ((1 - t) * low + t * high)
    assert bool(excess.isfinite().all()), "the attack left the range of float64"
    return float((excess / (1 + low.abs() + high.abs() + middle.abs())).max())


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def weight_in(state: dict[str, Tensor], name: str, constraint: str) -> np.ndarray:
    """The non-negative weight of a layer, from its stored parameter."""
    if f"{name}.raw" in state:
        return POSITIVE[constraint](array(state[f"{name}.raw"]))
    return array(state[f"{name}.weight"])


def conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, stride: Sequence[int], padding: Sequence[int]
) -> np.ndarray:
    """A convolution by its definition: for each pixel of the result, the sum over the window."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    _, _, high, wide = weight.shape
    rows, columns = (x.shape[2] - high) // stride[0] + 1, (x.shape[3] - wide) // stride[1] + 1
    out = np.empty((len(x), len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, i * stride[0] : i * stride[0] + high, j * stride[1] : j * stride[1] + wide]
            out[:, :, i, j] = np.einsum("bchw,ochw->bo", window, weight)
    return out if bias is None else out + bias[:, None, None]

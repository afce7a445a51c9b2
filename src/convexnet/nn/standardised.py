"""A network behind and before affine changes of units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convexnet.arrays import as_tensor


class Standardised(nn.Module):
    """net((x − centre) / scale) · out_scale + out_centre: a network that was trained on whitened data, in raw units.

    The changes of units are affine, so that what is convex stays convex. A negative scale turns an input around: where
    the network is non-decreasing in it, this module is non-increasing.

    Args:
        net: (..., n) -> (..., k).
        centre, scale: of the inputs, (n,) or numbers; no scale is zero.
        out_centre, out_scale: of the outputs, (k,) or numbers; the scales are positive.

    They are buffers and keep their type: with float64 ones, inputs in float32 are computed in float64.

    Shape: (..., n) -> (..., k).

    Raises:
        ValueError: a number that is not finite, or a scale of a sign that is not allowed.

    Example:
        >>> import convexnet as cx
        >>> demand = Standardised(cx.nn.FICNN(2, hidden=(8,)), centre=[20.0, 5.0], scale=[10.0, 2.0], out_scale=900.0)
        >>> cx.certify(demand, torch.zeros(1, 2)).convex
        True
    """

    centre: Tensor
    scale: Tensor
    out_centre: Tensor
    out_scale: Tensor

    def __init__(
        self, net: nn.Module, centre: Any = 0.0, scale: Any = 1.0, out_centre: Any = 0.0, out_scale: Any = 1.0
    ) -> None:
        super().__init__()
        self.net = net
        given = {"centre": centre, "scale": scale, "out_centre": out_centre, "out_scale": out_scale}
        kind = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.get_default_dtype())
        for name, value in given.items():
            tensor = as_tensor(value, name).detach().to(kind, copy=True)
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} must be finite, not {value}")
            self.register_buffer(name, tensor)
        if bool((self.scale == 0).any()) or not bool((self.out_scale > 0).all()):
            raise ValueError("no scale may be zero, and out_scale must be positive: a negative one is concave")

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.centre) / self.scale) * self.out_scale + self.out_centre

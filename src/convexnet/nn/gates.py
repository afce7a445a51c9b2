"""What can stand in the place of a gate: products of two quantities that depend on the input are never convex."""

from __future__ import annotations

from torch import Tensor, nn

from convexnet.arrays import as_size


class PooledSum(nn.Module):
    """z + W pool(z), the average over positions: the summary of squeeze-and-excitation, added instead of multiplied.

    Convex and non-decreasing in z for W >= 0, which `constrain` derives. W starts at zero, so that the block starts as
    the identity.

    Shape: (B, C, ...) -> the same; (B, C) counts as one position.

    Example:
        >>> import torch
        >>> gate = PooledSum(3)
        >>> z = torch.rand(2, 3, 4, 4)
        >>> torch.equal(gate(z), z)
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        channels = as_size(channels, "channels")
        self.mix = nn.Linear(channels, channels)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, z: Tensor) -> Tensor:
        pooled = self.mix(z.flatten(2).mean(2) if z.ndim > 2 else z)
        return z + pooled.view(*pooled.shape, *[1] * (z.ndim - 2))

    @classmethod
    def like(cls, gate: nn.Module) -> PooledSum:
        """Return one for the channels of a squeeze-and-excitation block: a factory for `convexify(replace=...)`.

        Example:
            >>> PooledSum.like(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.Sigmoid())).mix
            Linear(in_features=8, out_features=8, bias=True)
        """
        for layer in gate.modules():
            if isinstance(layer, nn.Linear):
                return cls(layer.in_features)
            if isinstance(layer, nn.Conv2d | nn.Conv1d | nn.Conv3d):
                return cls(layer.in_channels)
        raise ValueError(
            f"{type(gate).__name__} holds no linear or convolutional layer that would give its number of channels; "
            "give a factory of your own: lambda old: PooledSum(channels)"
        )


def removed(gate: nn.Module) -> nn.Identity:
    """Return nn.Identity in the place of a gate: a factory for `convexify(replace=...)`.

    Example:
        >>> removed(nn.Sigmoid())
        Identity()
    """
    return nn.Identity()

"""Energies f(y) of whole samples, which fill in any part that is missing: the networks of the study `imputation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import convexnet as cx


class Gaussian(nn.Module):
    """½ ‖y − Σ_k d_k u_k u_kᵀ y‖² · precision, of y (B, n): convex for all u and d, which learn.

    Begun at the directions and variances of data, it is the energy −log p of a normal distribution.

    Args:
        directions: u, (rank, n), orthonormal at the beginning.
        variances: along them, (rank,).
        noise: the variance along all others.

    Example:
        >>> f = Gaussian(torch.eye(2)[:1], torch.tensor([3.0]), 1.0)
        >>> f(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()  # ½ / (3 + 1) and ½, in units of the noise
        [0.125, 0.5]
    """

    def __init__(self, directions: Tensor, variances: Tensor, noise: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(directions.clone())
        self.shares = nn.Parameter(1 - (noise / (variances + noise)).sqrt())

    def forward(self, y: Tensor) -> Tensor:
        """(B,)."""
        along = nn.functional.linear(y, self.directions) * self.shares
        return (y - along @ self.directions).square().sum(1) / 2


class AroundGaussian(nn.Module):
    """A `Gaussian` and a FICNN, of what is left when a mean is subtracted: convex in the whole sample.

    Args:
        shape: of a sample.
        mean: (n,).
        gaussian: of the n numbers.
        hidden: widths of the FICNN.
        scale: of the numbers, for the FICNN.
    """

    mean: Tensor

    def __init__(
        self, shape: Sequence[int], mean: Tensor, gaussian: Gaussian, hidden: Sequence[int], scale: float
    ) -> None:
        super().__init__()
        self.shape, self.scale = tuple(shape), scale
        self.register_buffer("mean", mean.clone())
        self.gaussian = gaussian
        self.network = cx.nn.FICNN(len(mean), hidden=tuple(hidden))
        self.share = nn.Parameter(torch.tensor(-4.0))

    def forward(self, y: Tensor) -> Tensor:
        """(B,), of samples (B, *shape)."""
        centred = y.flatten(1) - self.mean
        added = self.network(centred / self.scale)[:, 0]
        return self.gaussian(centred) + nn.functional.softplus(self.share) * added


class Flat(nn.Module):
    """A FICNN with a quadratic term, of samples of any shape in units of their own.

    Args:
        shape: of a sample.
        mean: (n,).
        hidden, rank: of the FICNN, see `convexnet.nn.FICNN`.
        scale: of the numbers.
    """

    mean: Tensor

    def __init__(self, shape: Sequence[int], mean: Tensor, hidden: Sequence[int], rank: int, scale: float) -> None:
        super().__init__()
        self.shape, self.scale = tuple(shape), scale
        self.register_buffer("mean", mean.clone())
        self.network: Any = cx.nn.FICNN(len(mean), hidden=tuple(hidden), quadratic=rank)
        with torch.no_grad():
            self.network.quadratic.raw.fill_(0.54)  # softplus of it is 1: the least y begins near the mean

    def forward(self, y: Tensor) -> Tensor:
        """(B,), of samples (B, *shape)."""
        return self.network((y.flatten(1) - self.mean) / self.scale)[:, 0]


def principal(samples: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean (n,) of samples (N, ...), and the directions (rank, n) of largest variance with their variances.

    Example:
        >>> mean, directions, variances = principal(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 1)
        >>> mean.tolist(), directions.abs().tolist(), variances.tolist()
        ([0.0, 0.0], [[1.0, 0.0]], [1.0])
    """
    flat = samples.flatten(1).double()
    mean = flat.mean(0)
    _, values, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    rank = min(rank, len(values))
    return mean.float(), directions[:rank].float(), (values[:rank].square() / len(flat)).float()

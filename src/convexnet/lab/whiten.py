"""Whitening of the inputs, as a fixed affine first step of a network (Sivaprasad et al. 2021, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WHITENINGS = ("standard", "zca")

EPSILON = 0.1
"""Added to every variance: some directions of the digits hardly vary, and their noise would be blown up."""


class Whiten(nn.Module):
    """(x - mean) @ matrix, (B, D) -> (B, D). Affine, so it bends nothing; a part of whatever is certified behind it.

    Neither tensor is trained: they are what the training inputs were when the network was made.

    Example:
        >>> Whiten(torch.ones(2), torch.eye(2))(torch.tensor([[1.0, 3.0]]))
        tensor([[0., 2.]])
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) @ self.matrix


def whitening(inputs: Tensor, how: str, epsilon: float = EPSILON) -> Whiten:
    """The step that centres and scales inputs like these, and with "zca" also takes away their correlation.

    "standard" divides every feature by √(variance + ε). "zca" multiplies by (C + ε)^(-1/2), C the covariance: of all
    whitening maps the one that moves the inputs least, so that images stay images.

    Args:
        inputs: (N, D), those to train on.
        how: "standard" or "zca".
        epsilon: ε above, in squared units of the inputs; positive.

    Raises:
        ValueError: another `how`, an ε that is not positive, or inputs that are not (N, D) with N of 2 or more.

    Source: Sivaprasad et al. 2021, section 4 ("zero-centered, decorrelated"); the published code standardises instead.

    Example:
        >>> inputs = torch.randn(500, 3) @ torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
        >>> white = whitening(inputs, "zca", epsilon=1e-6)(inputs)
        >>> torch.allclose(torch.cov(white.T), torch.eye(3), atol=1e-4)
        True
    """
    if how not in WHITENINGS:
        raise ValueError(f"whitening must be one of {', '.join(map(repr, WHITENINGS))}, not {how!r}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, not {epsilon}: a feature that never varies would be divided by 0")
    if inputs.ndim != 2 or len(inputs) < 2:
        raise ValueError(f"whitening takes inputs (N, D) with N of 2 or more, not shape {tuple(inputs.shape)}")
    exact = inputs.double()
    covariance = torch.cov(exact.T).reshape(exact.shape[1], exact.shape[1])
    if how == "standard":
        matrix = torch.diag((covariance.diag() + epsilon).rsqrt())
    else:
        variances, directions = torch.linalg.eigh(covariance)
        # Rounding leaves variances of nought slightly negative.
        matrix = (directions * (variances.clamp(min=0.0) + epsilon).rsqrt()) @ directions.T
    return Whiten(exact.mean(0).to(inputs.dtype), matrix.to(inputs.dtype))

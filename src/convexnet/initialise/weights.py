"""Initialisers of one non-negative weight, in the habit of `torch.nn.init`: in place, without a gradient, returned."""

from __future__ import annotations

import torch
from torch import Tensor

from convexnet.initialise.activation_moments import Activation, Moments, moments


@torch.no_grad()
def paper_(
    weight: Tensor, epsilon: float = 5.0, *, where: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draw from Glorot's uniform distribution, then replace w < 0 by e^(w - epsilon), in place.

    Args:
        weight: (out, in, *kernel).
        epsilon: what the paper takes to be 5.
        where: boolean, broadcastable to the weight; only these entries are drawn, with fans counted over them alone.
        generator: of the random numbers.

    Returns:
        The weight.

    Raises:
        ValueError, TypeError: the weight has fewer than two dimensions, or `where` is not a mask for it.

    Source: Sivaprasad et al., The Curious Case of Convex Neural Networks (2021), section 3; Glorot & Bengio (2010),
        equation 16.

    Example:
        >>> weight = paper_(torch.empty(50, 100))
        >>> bool((weight > 0).all()), round(weight.max().item(), 1)
        (True, 0.2)
    """
    mask = mask_in_shape(weight, where)
    fan_out = entries_per_row(mask.transpose(0, 1)).transpose(0, 1)
    fresh = random_buffer(weight).uniform_(-1, 1, generator=generator)
    fresh *= torch.sqrt(6 / (entries_per_row(mask) + fan_out).clamp(min=1)).to(fresh.dtype)
    return write_weight(weight, torch.where(fresh < 0, torch.exp(fresh - epsilon), fresh), mask)


@torch.no_grad()
def lognormal_(
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
    correlation: float = 0.5,
    *,
    where: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw log-normal weights and a constant bias that keep mean 0, variance 1 and a correlation on average, in place.

    With fan-in N and correlation ρ, the weights have mean μ, μ² = ρ / (N Var φ + N(N-1) Cov_φ(ρ)), and variance
    (1-ρ) / (N E φ²); the bias is -N μ E φ. If the layer before has standard normal pre-activations of correlation ρ, so
    has this one, on average over draws. But the tails are heavy (for ELU, ln w has a variance of about ln(N/2.2)): a
    typical draw has less variance, and over the layers the correlation creeps up all the same, only more slowly.

    Args:
        weight: (out, in / groups, *kernel) of a layer whose input is φ of pre-activations.
        bias: (out,), overwritten; None where there is none, as before a BatchNorm, which does the bias's work.
        activation: φ, as for `moments`.
        correlation: ρ, in (0, 1).
        where: boolean, broadcastable to the weight; only these entries are drawn, N is counted over them, row by row,
            and rows without any keep their bias.
        generator: of the random numbers.

    Returns:
        The weight.

    Raises:
        ValueError, TypeError: as for `moments` and `paper_`.

    Source: Hoedt & Klambauer, Principled Weight Initialisation for Input-Convex Neural Networks (NeurIPS 2023), whose
        f_c (equation 35) is the bracket of μ² for ReLU.

    Example:
        >>> layer = torch.nn.Linear(100, 50)
        >>> weight = lognormal_(layer.weight, layer.bias, "elu")
        >>> bool((weight > 0).all()), round(layer.bias[0].item(), 3)
        (True, -0.206)
    """
    return fill_lognormal(weight, bias, moments(activation, correlation), correlation, where, generator)


def fill_lognormal(
    weight: Tensor,
    bias: Tensor | None,
    constants: Moments,
    correlation: float,
    where: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """`lognormal_` with the moments of the activation already known."""
    mask = mask_in_shape(weight, where)
    fan_in = entries_per_row(mask).clamp(min=1)
    mean, variance = lognormal_moments(fan_in, constants, correlation)
    spread = torch.log1p(variance / mean.square())  # of ln w, so that w has this mean and variance
    fresh = random_buffer(weight).normal_(generator=generator)
    fresh = torch.exp(fresh * spread.sqrt() + (mean.log() - spread / 2)).to(fresh.dtype)
    if bias is not None:
        shift = (-constants.mean * fan_in * mean).flatten().to(bias.dtype)
        bias.copy_(torch.where(mask.flatten(1).any(1), shift, bias))
    return write_weight(weight, fresh, mask)


def lognormal_moments(fan_in: Tensor, constants: Moments, correlation: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of a weight with this fan-in.

    Example:
        >>> mean, variance = lognormal_moments(torch.tensor([800.0]), moments("relu"), 0.5)
        >>> round(800 * variance.item(), 6)
        1.0
    """
    square = correlation / (fan_in * constants.variance + fan_in * (fan_in - 1) * constants.covariance)
    return square.sqrt(), (1 - correlation) / (fan_in * constants.second)


@torch.no_grad()
def identity_(
    weight: Tensor,
    noise: float = 0.1,
    groups: int = 1,
    *,
    where: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight nearly with the identity, in place: one input (or a few) for each unit, plus small positive noise.

    Of n inputs and m outputs (in each group), output i takes input i mod n if m >= n, with weight 1; if m < n it takes
    the inputs j with j mod m = i, each with weight 1/√(number of them), so that no input is lost and, if they are
    uncorrelated, the variance is kept. A convolution does this at the kernel's centre. Then every entry, the noughts
    too, gets a draw from U(0, 2·noise/N), N the fan-in: the noise of a row adds up to about `noise`, and no weight is
    an exact zero, which softplus and exp could not represent.

    The correlation stays near 0 through layers that keep or widen. One that narrows adds inputs up, and with them what
    little they share: from r inputs of correlation ρ each it makes units of correlation rρ / (1 + (r-1)ρ).

    Args:
        weight: (out, in / groups, *kernel).
        noise: sum of the noise of one row; what the units have in common grows by about (1 + noise)² a layer.
        groups: of a convolution.
        where: boolean, broadcastable to the weight; only these entries are written, and inputs are counted over them
            (those whose centre is in the mask), row by row.
        generator: of the random numbers.

    Returns:
        The weight.

    Raises:
        ValueError, TypeError: as for `paper_`; negative noise; groups that do not divide the outputs.

    Source: the non-negative counterpart of `torch.nn.init.eye_` and `dirac_`.

    Example:
        >>> identity_(torch.empty(2, 4), noise=0.0)
        tensor([[0.7071, 0.0000, 0.7071, 0.0000],
                [0.0000, 0.7071, 0.0000, 0.7071]])
    """
    if not noise >= 0:
        raise ValueError(f"noise must be non-negative, not {noise}: it is what is added to non-negative weights")
    mask = mask_in_shape(weight, where)
    if groups < 1 or len(weight) % groups:
        raise ValueError(f"{groups} groups do not divide the {len(weight)} outputs of a weight {tuple(weight.shape)}")
    centre = (slice(None), slice(None), *(side // 2 for side in weight.shape[2:]))
    taken = mask[centre]  # (out, in / groups)
    rank = taken.cumsum(1) - 1
    rows = taken.any(1).view(groups, -1)
    row = (rows.cumsum(1) - 1).view(-1, 1)
    outputs = rows.sum(1, keepdim=True).expand_as(rows).reshape(-1, 1)
    period = torch.minimum(outputs, taken.sum(1, keepdim=True)).clamp(min=1)
    hit = taken & (rank % period == row % period)
    fresh = random_buffer(weight).uniform_(0, 2 * noise, generator=generator)
    fresh /= entries_per_row(mask).clamp(min=1).to(fresh.dtype)
    fresh[centre] += hit / hit.sum(1, keepdim=True).clamp(min=1).sqrt()
    return write_weight(weight, fresh, mask)


def mask_in_shape(weight: Tensor, where: Tensor | None) -> Tensor:
    """The mask in the weight's shape; everything where there is none."""
    if weight.ndim < 2:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} has no fan-in: it needs (out, in, ...)")
    return torch.ones_like(weight, dtype=torch.bool) if where is None else expand_mask(where, weight)


def expand_mask(mask: Tensor, weight: Tensor) -> Tensor:
    """A mask in the weight's shape, checked."""
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask must be boolean, not {mask.dtype}: write `mask != 0` if that is what it means")
    try:
        return mask.to(weight.device).expand(weight.shape)
    except RuntimeError:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not broadcast to the weight's {tuple(weight.shape)}"
        ) from None


def entries_per_row(mask: Tensor) -> Tensor:
    """How many entries each row holds, (out, 1, ..., 1) in float64."""
    return mask.flatten(1).sum(1).double().view(-1, *[1] * (mask.ndim - 1))


def random_buffer(weight: Tensor) -> Tensor:
    """Room for random numbers, in single precision at least."""
    return torch.empty_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))


def write_weight(weight: Tensor, fresh: Tensor, mask: Tensor) -> Tensor:
    return weight.copy_(torch.where(mask, fresh.to(weight.dtype), weight))

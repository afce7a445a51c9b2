"""Centring, scaling and whitening of the inputs, as a fixed affine first step of a network.

All of them are affine, so they bend nothing: put in front of a network, they are part of what is certified. The paper
whitens ("zero-centered, decorrelated"; Sivaprasad et al. 2021, section 4), the published code standardises.

Long because every such step is here, with what finds its numbers; saved networks name this module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from convexnet.lab.data.batches import scaled
from convexnet.lab.data.data_set import Split

WHITENINGS = ("standard", "zca")

NORMALISATIONS = ("none", "mean-std", *WHITENINGS)
"""What `normaliser` knows: nothing; one mean and spread for each colour, or for each pixel; no correlation left."""

EPSILON = 0.1
"""Added to every variance: some directions of the digits hardly vary, and their noise would be blown up."""

CHUNK = 2048
"""Rows that are numbers, and not bytes, at one time."""


class Whiten(nn.Module):
    """(x - mean) @ matrix, (B, D) -> (B, D), or the same on images (B, C, H, W) of D numbers. Affine.

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
        if inputs.ndim == 2:
            return (inputs - self.mean) @ self.matrix
        return ((inputs.flatten(1) - self.mean) @ self.matrix).reshape(inputs.shape)


class WhitenInSpan(nn.Module):
    """(x - mean) * units, and of that all of what lies in the span of some directions, each by a factor of its own, and
    the rest by another: (B, *) -> (B, *) of D numbers. Affine, and as much smaller than a matrix (D, D) as there are
    fewer directions.

    Args:
        mean, units: (D,).
        directions: (D, r), orthonormal.
        factors: (r,).
        rest: the factor of what is orthogonal to all of them.

    Example:
        >>> first = torch.tensor([[1.0], [0.0]])
        >>> step = WhitenInSpan(torch.zeros(2), torch.ones(2), first, torch.tensor([3.0]), 0.5)
        >>> step(torch.tensor([[1.0, 1.0]]))
        tensor([[3.0000, 0.5000]])
    """

    mean: Tensor
    units: Tensor
    directions: Tensor
    more: Tensor

    def __init__(self, mean: Tensor, units: Tensor, directions: Tensor, factors: Tensor, rest: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("units", units)
        self.register_buffer("directions", directions)
        self.register_buffer("more", factors - rest)
        self.rest = rest

    def forward(self, inputs: Tensor) -> Tensor:
        x = (inputs.flatten(1) - self.mean) * self.units
        return (x * self.rest + ((x @ self.directions) * self.more) @ self.directions.T).reshape(inputs.shape)


class Standardise(nn.Module):
    """(x - mean) * scale, elementwise: (B, *) -> (B, *), with statistics that broadcast to one sample. Affine.

    Example:
        >>> Standardise(torch.ones(2), torch.full((2,), 0.5))(torch.tensor([[1.0, 3.0]]))
        tensor([[0., 1.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) * self.scale


# --- vectors ---------------------------------------------------------------------------------------------------------


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
    require_positive(epsilon)
    if inputs.ndim != 2 or len(inputs) < 2:
        raise ValueError(f"whitening takes inputs (N, D) with N of 2 or more, not shape {tuple(inputs.shape)}")
    exact = inputs.double()
    covariance = torch.cov(exact.T).reshape(exact.shape[1], exact.shape[1])
    if how == "standard":
        matrix = torch.diag((covariance.diag() + epsilon).rsqrt())
    else:
        matrix = inverse_root(covariance, epsilon)
    return Whiten(exact.mean(0).to(inputs.dtype), matrix.to(inputs.dtype))


def inverse_root(covariance: Tensor, epsilon: float) -> Tensor:
    """(C + ε)^(-1/2) of a symmetric matrix that rounding may have left with slightly negative eigenvalues.

    Example:
        >>> inverse_root(torch.diag(torch.tensor([3.0, 8.0])), 1.0)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.3333]])
    """
    variances, directions = torch.linalg.eigh(covariance)
    return (directions * (variances.clamp(min=0.0) + epsilon).rsqrt()) @ directions.T


def require_positive(epsilon: float) -> None:
    """Refuse an ε that does not keep a feature without variance from being divided by 0."""
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, not {epsilon}: a feature that never varies would be divided by 0")


# --- splits ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def normaliser(split: Split, how: str, epsilon: float = EPSILON) -> nn.Module:
    """The fixed affine step that normalises inputs like those of a split: (B, *shape) -> (B, *shape).

    "mean-std" centres images by the mean of each colour and divides by its spread (vectors: by one mean and one spread
    of all features), as is usual; it has no ε. "standard" and "zca" begin with that, so that ε is in units of the
    average variance of the colours, and then work on every pixel by itself, or on all of them together. Give it to
    `batches` or `prepared` as `transform`, or put it in front of a network.

    Args:
        split: the one to train on. Labels play no part.
        how: one of `NORMALISATIONS`.
        epsilon: added to the variances of "standard" and "zca".

    Raises:
        ValueError: another `how`, an ε that is not positive, fewer than two rows, or a colour that never varies.

    Example:
        >>> split = Split(torch.randint(256, (100, 3, 4, 4), dtype=torch.uint8), torch.zeros(100, dtype=torch.int64))
        >>> inputs = normaliser(split, "mean-std")(scaled(split.images))
        >>> print(f"{inputs.mean():.3f} {inputs.std():.3f}")
        0.000 1.000
    """
    if how not in NORMALISATIONS:
        raise ValueError(f"normalisation must be one of {', '.join(map(repr, NORMALISATIONS))}, not {how!r}")
    if how == "none":
        return nn.Identity()
    require_positive(epsilon)
    if len(split) < 2:
        raise ValueError(f"statistics need two rows or more, not {len(split)}")
    mean, variance = statistics(split)
    colours = colourwise(mean, variance)
    if how == "mean-std":
        return colours
    # In the units that the first step leaves: the mean of a pixel is centred, its variance divided.
    scale = colours.scale.double()
    if how == "standard":
        inner = (variance * scale.square() + epsilon).rsqrt() * scale
        return Standardise(mean.float(), inner.float())
    scales = scale.expand(mean.shape).flatten()
    if 2 * len(split) < mean.numel():
        return in_span(split, mean.flatten(), scales, epsilon)
    covariance = covariance_of(split, mean) * scales[:, None] * scales
    matrix = scales[:, None] * inverse_root(covariance, epsilon)
    return Whiten(mean.flatten().float(), matrix.float())


def in_span(split: Split, mean: Tensor, scales: Tensor, epsilon: float) -> WhitenInSpan:
    """The same as by the covariance (D, D), from the N x N products of the samples, where N is smaller than D.

    The centred samples X have X X' = U Λ U', and their covariance X' X / N has the eigenvalues Λ / N, with the
    directions X' U Λ^(-1/2); whatever is orthogonal to all of them does not vary.
    """
    count, size = len(split), len(mean)
    centred = torch.empty(count, size, dtype=torch.float32, device=mean.device)
    for first in range(0, count, CHUNK):
        rows = scaled(split.images[first : first + CHUNK]).flatten(1)
        centred[first : first + len(rows)] = (rows - mean.float()) * scales.float()
    products = torch.zeros(count, count, dtype=torch.float64, device=mean.device)
    for columns in centred.split(CHUNK, dim=1):
        products += columns.double() @ columns.double().T
    variances, vectors = torch.linalg.eigh(products)
    kept = variances > variances[-1] * count * 2.0**-52
    variances, vectors = variances[kept], vectors[:, kept]
    weights = (vectors / variances.sqrt()).float()
    directions = torch.cat([columns.T @ weights for columns in centred.split(CHUNK, dim=1)])
    factors = (variances / count + epsilon).rsqrt()
    return WhitenInSpan(mean.float(), scales.float(), directions, factors.float(), epsilon**-0.5)


def statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and (population) variance of every number of a sample, (*shape) each, in float64."""
    count = len(split)
    total = torch.zeros(split.images.shape[1:], dtype=torch.float64, device=split.images.device)
    for rows in split.images.split(CHUNK):
        total += scaled(rows, torch.float64).sum(0)
    mean = total / count
    squares = torch.zeros_like(total)
    for rows in split.images.split(CHUNK):
        squares += (scaled(rows, torch.float64) - mean).square().sum(0)
    return mean, squares / count


def colourwise(mean: Tensor, variance: Tensor) -> Standardise:
    """One mean and one spread for each colour of images (C, H, W), or one for all features of vectors (D,)."""
    places = tuple(range(1, mean.ndim)) or (0,)
    centre = mean.mean(places, keepdim=True)
    # The variance over samples and places is the mean of the variances plus the variance of the means.
    spread = (variance.mean(places, keepdim=True) + (mean - centre).square().mean(places, keepdim=True)).sqrt()
    varying = spread > 1e-9 * centre.abs()  # a mean of equal numbers is a rounding error away from them
    if not bool(varying.all()):
        colour = varying.flatten().tolist().index(False)
        raise ValueError(f"colour {colour} has the same value in every pixel of every image: leave it out")
    return Standardise(centre.float(), spread.reciprocal().float())


def covariance_of(split: Split, mean: Tensor) -> Tensor:
    """The covariance (D, D) of all numbers of a sample, in float64: products in float32, added up in float64."""
    centre = mean.flatten().float()
    total = torch.zeros(len(centre), len(centre), dtype=torch.float64, device=centre.device)
    for rows in split.images.split(CHUNK):
        centred = scaled(rows).flatten(1) - centre
        total += centred.T @ centred
    return total / len(split)


# --- the first layer -------------------------------------------------------------------------------------------------


@torch.no_grad()
def whitening_convolution(
    split: Split, kernel: int = 3, epsilon: float = 1e-2, *, padding: int = 0, rows: int = 5000
) -> nn.Conv2d:
    """A frozen first convolution whose outputs are uncorrelated over the patches of the training images.

    Its C * kernel² filters are the eigenvectors of the patches' covariance, each divided by √(variance + ε): whitening
    of every patch, (B, C, H, W) -> (B, C * kernel², H', W'). It is affine in the image, so what follows it is still
    free of constraints up to the first nonlinearity.

    Args:
        split: images (N, C, H, W) to train on.
        kernel: side of a patch, in pixels.
        epsilon: added to every variance, in squared units of pixels in [0, 1]; positive.
        padding: zeros around the image.
        rows: how many of the images the patches are taken from, the first ones.

    Raises:
        ValueError: vectors instead of images, a patch larger than an image, or an ε that is not positive.

    Source: Page, How to Train Your ResNet (2018); Jordan, 94% on CIFAR-10 in 3.29 Seconds (2024), which stacks the
        negative filters on the positive ones: here a free layer may follow, which can negate.

    Example:
        >>> split = Split(torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8), torch.zeros(50, dtype=torch.int64))
        >>> layer = whitening_convolution(split, kernel=2)
        >>> layer(scaled(split.images)).shape, layer.weight.requires_grad
        (torch.Size([50, 4, 7, 7]), False)
    """
    require_positive(epsilon)
    if split.images.ndim != 4 or not 0 < kernel <= min(split.images.shape[-2:]) or not len(split):
        raise ValueError(f"a whitening convolution takes images with patches {kernel} wide, not {split}")
    channels = split.images.shape[1]
    count, total, products = 0, torch.zeros(()), torch.zeros(())
    for images in split.images[:rows].split(CHUNK // 8):
        patches = functional.unfold(scaled(images, torch.float64), kernel)  # (B, C * kernel², places)
        samples = patches.transpose(1, 2).flatten(0, 1)
        count, total, products = count + len(samples), total + samples.sum(0), products + samples.T @ samples
    mean = total / count
    variances, directions = torch.linalg.eigh(products / count - mean[:, None] * mean)
    filters = ((variances.clamp(min=0.0) + epsilon).rsqrt() * directions).T.flip(0)  # the largest variance first
    layer = nn.Conv2d(channels, len(filters), kernel, padding=padding)
    layer.weight.copy_(filters.reshape(-1, channels, kernel, kernel))
    assert layer.bias is not None
    layer.bias.copy_(-filters @ mean)
    return layer.requires_grad_(False)

"""Augmentation of whole batches, on the device that holds them.

An augmentation is a function of a batch (B, C, H, W) and a generator. What it draws, one or a few numbers for each
image, is drawn on the processor, so that the same generator gives the same images on every device.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Augmentation(Protocol):
    """Random changes of images (B, C, H, W), bytes or floating-point, of the same shape and type."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor: ...


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Generator[None, None, None]:
    """Let what draws from the global generator on the processor, as torchvision does, draw from a number of this one.

    The global state is put back afterwards. `torch.manual_seed`, which also seeds every device, takes longer than a
    crop.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(before)


def require_range(value: float, least: float, most: float, what: str) -> None:
    """Refuse a setting outside its range; NaN does not pass."""
    if not least <= value <= most:
        raise ValueError(f"{what} must be from {least} to {most}, not {value}")


@dataclass(frozen=True)
class Crop:
    """A window of the image's own size at a random place of the image with `padding` zeros around it."""

    padding: int = 4

    def __post_init__(self) -> None:
        require_range(self.padding, 0, 1 << 15, "padding, in pixels,")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, channels, height, width = images.shape
        down, across = torch.randint(2 * self.padding + 1, (2, batch, 1, 1), generator=generator)
        padded = functional.pad(images, (self.padding,) * 4).contiguous()
        tall, wide = padded.shape[-2:]
        # Where each row of each window begins in memory. A view in which a row begins at every number lets one
        # `index_select` copy them whole, many times as fast as indexing pixels.
        colours = torch.arange(batch * channels).reshape(batch, channels, 1) * (tall * wide)
        begins = colours + (down + torch.arange(height)) * wide + across
        rows = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
        return rows.index_select(0, begins.flatten().to(images.device)).reshape(images.shape)


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged in half of the images."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        turned = torch.rand(len(images), generator=generator) < 0.5
        if len(images) == 1:  # as for images in files, of which each is a batch
            return images.flip(-1) if turned else images
        chosen = turned.nonzero()[:, 0].to(images.device)
        return images.clone().index_copy_(0, chosen, images.index_select(0, chosen).flip(-1))


@dataclass(frozen=True)
class Affine:
    """A small rotation, shear and shift about the centre, bilinear; beyond the edge the edge's colours go on.

    Each number is drawn uniformly from its interval: `rotation` and `shear` in degrees, `shift` as a share of the
    side, all in both directions.
    """

    rotation: float = 10.0
    shear: float = 10.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        require_range(self.rotation, 0, 180, "rotation, in degrees,")
        require_range(self.shear, 0, 80, "shear, in degrees,")
        require_range(self.shift, 0, 1, "shift, as a share of the side,")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draws = 2 * torch.rand(4, len(images), generator=generator) - 1
        turn, lean = (draws[:2] * torch.tensor([[self.rotation], [self.shear]])).deg2rad()
        # A share of the side is twice that in the coordinates of the grid, which go from -1 to 1.
        across, down = 2 * self.shift * draws[2:]
        height, width = images.shape[-2:]
        stretch = height / width
        cos, sin, tan = turn.cos(), turn.sin(), lean.tan()
        # Rotation times shear [[1, tan], [0, 1]], in pixels; the grid measures both axes in half sides.
        rows = [cos, (cos * tan - sin) * stretch, across, sin / stretch, sin * tan + cos, down]
        theta = torch.stack(rows, dim=1).reshape(-1, 2, 3).to(images.device)
        kind = images.dtype
        numbers = images if images.is_floating_point() else images.float()
        grid = functional.affine_grid(theta.to(numbers.dtype), list(images.shape), align_corners=False)
        moved = functional.grid_sample(numbers, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return moved if images.is_floating_point() else moved.round_().to(kind)


@dataclass(frozen=True)
class Cutout:
    """A square of zeros with sides of `size` pixels, its centre anywhere in the image.

    Source: DeVries & Taylor, Improved Regularization of Convolutional Neural Networks with Cutout (2017).
    """

    size: int = 16

    def __post_init__(self) -> None:
        require_range(self.size, 1, 1 << 15, "size, in pixels,")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        height, width = images.shape[-2:]
        draws = torch.rand(2, len(images), 1, generator=generator).to(images.device)
        inside: list[Tensor] = []
        for draw, side in zip(draws, (height, width), strict=True):
            first = (draw * side).floor() - self.size // 2
            place = torch.arange(side, device=images.device)
            inside.append((place >= first) & (place < first + self.size))
        return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


@functools.cache
def window_drawer(least: float) -> Any:
    """What draws a window of torchvision, whatever the size that it is resized to; a process makes it once."""
    from torchvision.transforms import v2

    return v2.RandomResizedCrop(1, scale=(least, 1.0))


@dataclass(frozen=True)
class ResizedCrop:
    """A window of random area and aspect, resized to the size of the images.

    Its area is drawn from `least` to 1 as a share of the image, its aspect from 3/4 to 4/3. Of images in files
    (`Streamed`) the window is cut from the whole picture, whatever its size.

    Source: Szegedy et al., Going Deeper with Convolutions (2015); torchvision's RandomResizedCrop.
    """

    least: float = 0.08

    def __post_init__(self) -> None:
        require_range(self.least, 0.001, 1, "the least share of the area")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        size = tuple(images.shape[-2:])
        return torch.stack([self.cut(image, size, generator) for image in images])

    def cut(self, image: Tensor, size: Sequence[int], generator: torch.Generator) -> Tensor:
        """A window of one image (C, H, W) in another size."""
        from torchvision.transforms.v2 import functional as changes

        with drawing_from(generator):
            window = window_drawer(self.least).make_params([image])
        return changes.resized_crop(image, **window, size=list(size), antialias=True)


def transforms() -> Mapping[str, Callable[[], Any]]:
    """How torchvision's transforms are made that `Torchvision` knows by name."""
    from torchvision.transforms import v2

    return {
        "randaugment": lambda: v2.RandAugment(num_ops=2, magnitude=9),
        "autoaugment-cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
        "autoaugment-imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
        "jitter": lambda: v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        "erase": lambda: v2.RandomErasing(p=0.25),
    }


@functools.cache
def transform_named(name: str) -> Any:
    """One of torchvision's transforms; a process makes each once."""
    return transforms()[name]()


@dataclass(frozen=True)
class Torchvision:
    """A transform of torchvision, which draws for each image anew; of images that are bytes.

    - "randaugment": two of fourteen changes, of strength 9 (Cubuk et al. 2019, arXiv 1909.13719).
    - "autoaugment-cifar10", "autoaugment-imagenet": one of the learnt policies (Cubuk et al. 2018, arXiv 1805.09501).
    - "jitter": brightness, contrast and saturation times up to 1.4 or down to 0.6.
    - "erase": in one image of four a window is black (Zhong et al. 2017, arXiv 1708.04896, with black for noise).

    Raises:
        ValueError: the images are not bytes.
    """

    name: str

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if images.dtype != torch.uint8:
            raise ValueError(
                f"{self.name} changes colours of images that are bytes (uint8), and these are {images.dtype}: choose "
                "another augmentation, or keep the images as bytes"
            )
        change = transform_named(self.name)
        with drawing_from(generator):
            return torch.stack([change(image) for image in images])


JITTER, ERASE, RANDAUGMENT = Torchvision("jitter"), Torchvision("erase"), Torchvision("randaugment")

AUGMENTATIONS: Mapping[str, tuple[Augmentation, ...]] = {
    "none": (),
    "flip": (Flip(),),
    "crop": (Crop(),),
    "crop-flip": (Crop(), Flip()),
    "crop-flip-cutout": (Crop(), Flip(), Cutout()),
    "resized-crop-flip": (ResizedCrop(), Flip()),
    "paper-code": (Crop(), Flip(), Affine(rotation=10.0, shear=10.0)),
    "crop-flip-jitter-erase": (Crop(), Flip(), JITTER, ERASE),
    "crop-flip-randaugment": (Crop(), Flip(), RANDAUGMENT),
    "crop-flip-autoaugment": (Crop(), Flip(), Torchvision("autoaugment-cifar10")),
    "resized-crop-flip-randaugment-erase": (ResizedCrop(), Flip(), RANDAUGMENT, ERASE),
    "resized-crop-flip-autoaugment": (ResizedCrop(), Flip(), Torchvision("autoaugment-imagenet")),
}
"""Named sets, in the order of application.

"resized-crop-flip" is what ImageNet is trained with; with RandAugment and erased windows it is what newer networks are
(Touvron et al. 2021, arXiv 2012.12877). "crop-flip-jitter-erase" is what the report's code does to the images of its
CycleMLP. "paper-code" is what the published code does, to the MLP too: crops with a margin of four pixels, flips,
"small" rotations and shears. How small we chose: up to ten degrees either way.
"""


def augmentation(name: str) -> tuple[Augmentation, ...]:
    """A named set of augmentations.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> augmentation("crop-flip")
        (Crop(padding=4), Flip())
    """
    if name not in AUGMENTATIONS:
        near = difflib.get_close_matches(name, AUGMENTATIONS, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown augmentation {name!r}.{meant} Known are {', '.join(AUGMENTATIONS)}")
    return AUGMENTATIONS[name]


@dataclass(frozen=True)
class Mixed:
    """A batch whose images are mixed with those of its other end, one to the next.

    Attributes:
        inputs: (N, ...), mixed.
        others: (N,), the row of the batch that each was mixed with.
        kept: the share of its own that each has, in [0, 1].
    """

    inputs: Tensor
    others: Tensor
    kept: float


def mixed(inputs: Tensor, mixup: float, cutmix: float, seed: int) -> Mixed:
    """Mix every image of a batch with another one: as a whole (mixup), or by a window (CutMix), by torchvision.

    Args:
        inputs: (N, C, H, W) on any device, augmented and scaled.
        mixup, cutmix: parameters a of Beta(a, a), of which the share is drawn; 0: not in this way. With both, each is
            taken for half of the batches.
        seed: decides which, the share and the window.

    Source: Zhang et al. 2018 (arXiv 1710.09412), section 2; Yun et al. 2019 (arXiv 1905.04899), section 3.1.

    Example:
        >>> found = mixed(torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 2), 1.0, 0.0, seed=0)
        >>> found.others.tolist(), bool((found.inputs[1] == found.kept).all())
        ([2, 0, 1], True)
    """
    from torchvision.transforms import v2

    count = len(inputs)
    with drawing_from(torch.Generator().manual_seed(seed)):
        windows = bool(cutmix) and (not mixup or float(torch.rand(())) < 0.5)
        # With the rows for classes, the labels that it returns say who was mixed with whom.
        change = v2.CutMix(alpha=cutmix, num_classes=count) if windows else v2.MixUp(alpha=mixup, num_classes=count)
        found, shares = change(inputs, torch.arange(count, device=inputs.device))
    others = torch.arange(count, device=inputs.device).roll(1)
    return Mixed(found, others, float(shares[0, 0]))


def augmented(images: Tensor, augment: Sequence[Augmentation], generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) after all of these, one after the other."""
    for change in augment:
        images = change(images, generator)
    return images

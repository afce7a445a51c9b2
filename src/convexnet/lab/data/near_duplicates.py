"""Find test images that are in the training part too, in nearly the same form: another crop, contrast or colour.

Pictures of one camera shot agree in their details. So each image is averaged down to 16 x 16 pixels, two rows and
columns at each edge are left out, the mean of the 5 x 5 pixels around it is taken off every pixel (what is left of a
sky or a white ground is next to nothing), and two images are compared by the correlation of what is left. Nothing that
is trained decides.

On the first 1,017 official test images of CIFAR-10 against the 50,000 to train on, `SAME` finds 16 of the 35 that the
authors of ciFAIR list, and 8 that they do not list; looked at side by side, each of the 24 pairs shows one picture
twice. Of the pairs that they do not list the twelve best do (down to 0.86), the next one does not (0.84, two ships). In
the last 10,000 training images against the first 40,000 it finds 154; of the 90 weakest of these one or two show two
pictures. Pairs that are shifted, scaled or mirrored are missed: what it calls unique is only less often a duplicate.

Source of the question and of the list: Barz & Denzler, Do We Train on Test Data? Purging CIFAR of Near-Duplicates
(Journal of Imaging 2020), with the lists of its repository (`meta/duplicates_cifar10.csv`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from convexnet.lab.data.data_set import Split

SAME = 0.88
"""The correlation of details from which on two images count as one picture."""

SIDE, AROUND, MARGIN = 16, 5, 2
"""Pixels to which an image is averaged down, the width of the neighbourhood whose mean is taken off, and the rows and
columns at each edge that are left out: many pictures have a white frame, which is no detail of theirs."""

TOGETHER = 2000
"""Test images that are compared with all training images at a time."""

LISTED = (
    *(31, 40, 102, 104, 131, 136, 149, 159, 235, 374, 390, 481, 506, 516, 535, 546, 560, 575, 576, 594, 627, 654, 656),
    *(673, 779, 803, 814, 856, 892, 896, 902, 951, 983, 985, 992),
)
"""The official test images of CIFAR-10 below number 1,017 that Barz & Denzler list: near-duplicate or very similar."""


def details(images: Tensor) -> Tensor:
    """What sets every pixel apart from those around it: unit vectors (N, D) of images (N, C, H, W); 0 of a plain one.

    Example:
        >>> details(torch.full((1, 3, 32, 32), 7, dtype=torch.uint8)).abs().max()
        tensor(0.)
    """
    pixels = images.float()
    factor = max(1, min(images.shape[-2:]) // SIDE)
    small = functional.avg_pool2d(pixels, factor)
    edge = MARGIN if min(small.shape[-2:]) > 4 * MARGIN else 0
    inner = small[..., edge : small.shape[-2] - edge, edge : small.shape[-1] - edge]
    around = functional.avg_pool2d(inner, AROUND, 1, AROUND // 2, count_include_pad=False)
    left = (inner - around).flatten(1)
    left = left - left.mean(1, keepdim=True)
    # A rounding of a plain image is no detail.
    return functional.normalize(torch.where(left.abs() > 1e-3, left, 0.0), dim=1)


def closest(test: Tensor, train: Tensor) -> Tensor:
    """The largest correlation (N,) of each test image (N, C, H, W) with any training image (M, C, H, W), of details.

    Example:
        >>> images = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
        >>> (closest(images // 2 + 20, images[:2]) > SAME).tolist()
        [True, True, False, False]
    """
    known = details(train)
    return torch.cat([(details(some) @ known.T).amax(1) for some in test.split(TOGETHER)])


def duplicated(test: Split, train: Split, same: float = SAME) -> Tensor:
    """Which test images (N,) are in the training part too, as far as `closest` sees that; booleans.

    Raises:
        ValueError: a part is no images, or they differ in size.
    """
    for name, part in (("test", test), ("training", train)):
        if part.images.ndim != 4 or part.shape != train.shape:
            raise ValueError(
                f"near-duplicates are looked for among images (N, C, H, W) of one size: the {name} part is "
                f"{tuple(part.images.shape)}, the training part {tuple(train.images.shape)}"
            )
    return closest(test.images, train.images) > same

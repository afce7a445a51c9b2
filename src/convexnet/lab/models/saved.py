"""Save a trained network with its first step, the shape of a sample and the names of its classes, and read it again.

`runs` saves; the commands `certify`, `minimise` and `predict` need such a file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab.data import DataError, DataSet
from convexnet.lab.data.folder import ENDINGS, centred, pixels_of
from convexnet.lab.errors import UsageError
from convexnet.lab.models.by_path import import_from_here
from convexnet.memory import CLASSNAMES, PREPARATION, example_of, recall, remember_example
from convexnet.storage.modules import describe_model as save_plan

CENTRED, STRETCHED = "centred", "stretched"
"""How an image of another size is brought to that of a network: its middle is cut out, or it is stretched."""

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image: its classes by falling confidence, and what was done to the image first."""

    path: Path
    classes: tuple[str, ...]
    confidences: tuple[float, ...]
    note: str


# --- writing ---------------------------------------------------------------------------------------------------------


def described(network: nn.Module, data: DataSet) -> nn.Module:
    """A network that remembers what it was trained on.

    That is the shape of a sample, the names of its classes, and how an image of another size becomes one of that shape.
    """
    remember_example(network, torch.zeros(1, *data.shape))
    network.__dict__[CLASSNAMES] = list(data.classnames)
    network.__dict__[PREPARATION] = CENTRED if data.centred else STRETCHED
    return network


def require_savable(network: nn.Module) -> None:
    """Refuse a network before it is trained that could not be saved afterwards.

    Raises:
        ValueError: something in it has no description as data; the message names it.
    """
    try:
        save_plan(network)
    except TypeError as error:
        raise ValueError(f"the network could not be saved when it is trained: {error}") from None


# --- reading ---------------------------------------------------------------------------------------------------------


def network_of(path: Path, allow: Sequence[str] = ()) -> nn.Module:
    """A network that `convexnet.save` wrote, in eval mode.

    Raises:
        UsageError: it cannot be loaded.
    """
    if allow:
        import_from_here()
    try:
        return cx.load(path, allow=tuple(allow)).requires_grad_(False).eval()
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be loaded: {error}") from None


def example_in(
    path: Path, network: nn.Module, remedy: str = "give the shape of a sample, --shape"
) -> tuple[Tensor, ...]:
    """The example that a saved network remembers; `remedy` says what helps where there is none.

    Raises:
        UsageError: it remembers none.
    """
    try:
        return example_of(network)
    except ValueError:
        raise UsageError(f"{path} does not record the shape of its inputs: {remedy}") from None


@torch.no_grad()
def predictions(network: nn.Module, paths: Sequence[Path], top: int = 3) -> list[Prediction]:
    """The most probable classes of images, by the softmax of the outputs; of one output, by its sigmoid.

    Args:
        network: that takes images in [0, 1], (B, C, H, W) of one or three colours, and remembers their shape.
        paths: of images; of a folder, all in it.
        top: how many classes.

    Raises:
        UsageError: the network takes no images, or a file is none.
    """
    (example,) = example_of(network)
    if example.ndim != 4 or example.shape[1] not in (1, 3):
        raise UsageError(
            f"the network takes inputs {tuple(example.shape[1:])}, and not images: give it numbers with "
            "`convexnet minimise` or in Python"
        )
    found: list[Prediction] = []
    for path in files_in(paths):
        try:
            pixels = torch.from_numpy(np.array(pixels_of(path))).permute(2, 0, 1)
        except DataError as error:
            raise UsageError(str(error)) from None
        image, note = fitted(pixels, example, recall(network, PREPARATION) or STRETCHED)
        outputs = network(image)
        shares = torch.cat([-outputs, outputs], 1).div(2) if outputs.shape[1] == 1 else outputs
        confidences, places = shares.softmax(1)[0].topk(min(top, shares.shape[1]))
        names = recall(network, CLASSNAMES) or [str(number) for number in range(shares.shape[1])]
        found.append(Prediction(path, tuple(names[k] for k in places), tuple(confidences.tolist()), note))
    return found


def files_in(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, and of folders the images in them, by name."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in ENDINGS)
            if not inside:
                raise UsageError(f"{path} is a folder without images")
            found += inside
        elif not path.exists():
            raise UsageError(f"there is no image {path}")
        else:
            found.append(path)
    return found


def fitted(pixels: Tensor, example: Tensor, how: str = STRETCHED) -> tuple[Tensor, str]:
    """An image (3, H, W) of bytes as the network takes it, (1, C, H', W') in [0, 1], and what had to be changed.

    `how` says what an image of another size becomes: what those became that the network was trained on.

    Example:
        >>> image, note = fitted(torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 2, 2))
        >>> tuple(image.shape), note
        ((1, 1, 2, 2), 'resized from 4 x 4')
    """
    said: list[str] = []
    if pixels.shape[-2:] != example.shape[-2:]:
        middle = ", its middle" if how == CENTRED else ""
        said.append(f"resized from {pixels.shape[2]} x {pixels.shape[1]}{middle}")
        if how == CENTRED:
            pixels = centred(pixels, example.shape[-2:])
    image = pixels[None].to(example.dtype) / 255
    if image.shape[-2:] != example.shape[-2:]:
        image = functional.interpolate(
            image, size=tuple(example.shape[-2:]), mode="bilinear", antialias=True, align_corners=False
        ).clamp(0, 1)
    if example.shape[1] == 1:
        if not bool((pixels[:1] == pixels).all()):
            said.append("colours left out")
        image = (image * torch.tensor(GREY, dtype=image.dtype)[:, None, None]).sum(1, keepdim=True)
    return image, ", ".join(said)

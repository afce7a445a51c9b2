"""Read a folder of images: list every real file once, decode one, and take a fingerprint of all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from convexnet.lab.data.cache import kept_text
from convexnet.lab.data.files import CorruptData, DataError, MissingData

if TYPE_CHECKING:
    from PIL.Image import Image

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test",)
VALIDATION_FOLDERS = ("val", "valid", "validation")
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that are images."""

MARGIN = 256 / 224
"""How much larger than the window in its middle an image is made, as is usual for ImageNet."""

LONG = 2**28
"""Bytes of images that are not read again for their fingerprint while no file changes."""

SETTLED = 10 * 10**9
"""Nanoseconds without a change after which the time of the last one stands for the content."""

READERS = 8
"""Threads that read files for a fingerprint; they wait for the disk most of the time."""


def inside(path: Path, names: Sequence[str]) -> Path | None:
    """The first of some folders that is there."""
    return next((path / name for name in names if (path / name).is_dir()), None)


# --- pixels ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def readable(path: Path) -> Generator[None, None, None]:
    """Turn what goes wrong while an image is read into an error that names the file."""
    from PIL import Image

    try:
        yield
    except FileNotFoundError:
        raise MissingData(f"there is no image {path}; it was moved or deleted since the folder was read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise too_many_pixels(path) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise CorruptData(
            f"{path} cannot be read as an image of bytes; it may be truncated: {error}. Training leaves such "
            "images out with --skip-unreadable"
        ) from error


def too_many_pixels(path: Path) -> CorruptData:
    """The error for an image that may be made to fill the memory."""
    from PIL import Image

    return CorruptData(f"{path} would have more pixels than an image should (at most {Image.MAX_IMAGE_PIXELS})")


@contextlib.contextmanager
def opened_image(path: Path) -> Generator[Image, None, None]:
    """An image whose pixels are not read yet.

    Pillow warns of too many of them; to make an error of that by the filter of warnings, as is usual, would change it
    for all threads.

    Raises:
        MissingData, CorruptData: it is not there, cannot be read, or would be too large.
    """
    from PIL import Image

    with readable(path), Image.open(path) as picture:
        if Image.MAX_IMAGE_PIXELS is not None and picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
            raise too_many_pixels(path)
        yield picture


ORIENTATION = 0x0112
"""The entry in which a camera says how it was held; 1 is upright."""


def pixels_of(path: Path) -> np.ndarray:
    """An image as bytes (H, W, 3), in RGB, and upright where a camera says how it was held.

    Raises:
        MissingData, CorruptData: it is not there, cannot be read, or would be too large.
    """
    from PIL import ImageOps

    with opened_image(path) as picture:
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"its pixels ({picture.mode}) are not bytes; convert it to 8 bits a colour")
        # Each of these would copy an image that is as it should be.
        turned = picture.getexif().get(ORIENTATION, 1) != 1
        upright = ImageOps.exif_transpose(picture) if turned else picture
        if upright.mode == "P" and "transparency" in upright.info:  # Pillow warns where it is lost on the way
            upright = upright.convert("RGBA")
        return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def unreadable(samples: Sequence[tuple[str, int]]) -> dict[str, str]:
    """The files that cannot be read as images, and why: each is decoded once.

    What was found in a large folder is kept while no file of it changes.
    """

    def read() -> str:
        with ThreadPoolExecutor(READERS) as pool:
            said = pool.map(complaint, (file for file, _ in samples))
            return json.dumps({file: text for (file, _), text in zip(samples, said, strict=True) if text})

    key = unchanged([("", (), list(samples))])
    return json.loads(read() if key is None else kept_text(f"unreadable-{key}", read))


def complaint(file: str) -> str:
    """Why a file cannot be read as an image; empty where it can."""
    try:
        pixels_of(Path(file))
    except DataError as error:
        return str(error)
    return ""


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an upright image, from the beginning of its file.

    Raises:
        MissingData, CorruptData: it cannot be read.
    """
    with opened_image(path) as picture:
        width, height = picture.size
        turned = picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def centred(pixels: Tensor, size: Sequence[int]) -> Tensor:
    """An image (C, h, w) of bytes in another size: resized to a little more than that, and its middle cut out.

    An image that has the size already is returned as it is. Usual for ImageNet: 256 pixels for a window of 224.

    Example:
        >>> import torch
        >>> centred(torch.zeros(3, 60, 80, dtype=torch.uint8), (28, 28)).shape
        torch.Size([3, 28, 28])
    """
    from torchvision.transforms.v2 import functional as changes

    here = tuple(pixels.shape[-2:])
    if here == tuple(size):
        return pixels
    factor = MARGIN * max(want / side for want, side in zip(size, here, strict=True))
    larger = [max(want, round(factor * side)) for want, side in zip(size, here, strict=True)]
    return changes.center_crop(changes.resize(pixels, larger, antialias=True), list(size))


# --- the walk --------------------------------------------------------------------------------------------------------


def listed(folder: Path) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """The classes of a folder, and every real file that is an image, once, with the number of its class.

    Raises:
        MissingData: there are no classes, or one has no image.
        DataError: one file is in two classes.
    """
    root = folder.resolve()
    classes = tuple(sorted(e.name for e in folder.iterdir() if e.is_dir() and not root.is_relative_to(e.resolve())))
    if not classes:
        raise MissingData(f"{folder.absolute()} must hold a folder of images for each class, and has no folders")
    owner: dict[str, int] = {}
    samples: list[tuple[str, int]] = []
    visited: set[Path] = set()
    for number, name in enumerate(classes):
        count = len(samples)
        for place in sorted(str(place) for place in places_in(folder / name, root, visited)):
            for file, real in images_in(place):
                if owner.get(real, number) != number:
                    raise DataError(f"{file} and an image of {classes[owner[real]]!r} are one file: of which class?")
                if real not in owner:
                    owner[real] = number
                    samples.append((file, number))
        if len(samples) == count:
            raise MissingData(
                f"{folder / name} has no images of its own; a folder of images for each class is needed. Images are "
                f"files that end in {', '.join(ENDINGS)}: convert others, or delete the folder if it is not a class"
            )
    return classes, samples


def images_in(place: str) -> list[tuple[str, str]]:
    """The images in one folder by name, each with its real path; a million of them in seconds."""
    real = os.path.realpath(place)
    found: list[tuple[str, str]] = []
    with os.scandir(place) as entries:
        for entry in entries:
            if os.path.splitext(entry.name)[1].lower() in ENDINGS and entry.is_file():
                target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)
                found.append((entry.path, target))
    return sorted(found)


def places_in(folder: Path, root: Path, visited: set[Path]) -> Iterator[Path]:
    """A folder and those below it, each real one once; a link is followed only where it leads out of the data."""
    if folder.resolve() in visited:
        return
    visited.add(folder.resolve())
    yield folder
    for entry in folder.iterdir():
        if entry.is_dir():
            real = entry.resolve()
            within = real.is_relative_to(root) or root.is_relative_to(real)
            if not (entry.is_symlink() and within):
                yield from places_in(entry, root, visited)


def fingerprint(path: Path) -> str:
    """Sixteen hexadecimal digits that stand for the content of a user's own data: of an archive, or of all images.

    Where something is missing or wrong, reading the data says so; this says nothing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.npz"
        ...     _ = path.write_bytes(b"one")
        ...     one = fingerprint(path)
        ...     _ = path.write_bytes(b"two")
        ...     one == fingerprint(path)
        False
    """
    found: list[tuple[str, tuple[str, ...], list[tuple[str, int]]]] = []
    parts = [part for part in (*TRAIN_FOLDERS, *TEST_FOLDERS, *VALIDATION_FOLDERS) if (path / part).is_dir()]
    for part in parts if inside(path, TRAIN_FOLDERS) is not None else ["."] if path.is_dir() else []:
        with contextlib.suppress(DataError, OSError):
            found.append((part, *listed(path / part)))

    def read() -> str:
        total = hashlib.sha256()
        if path.is_file():
            total.update(sha256(str(path)))
        for part, classes, samples in found:
            with contextlib.suppress(OSError), ThreadPoolExecutor(READERS) as pool:
                total.update(repr((part, classes)).encode())
                sums = pool.map(sha256, (file for file, _ in samples))
                for (_, number), one in zip(samples, sums, strict=True):
                    total.update(f"{number} {one.hex()}".encode())
        return total.hexdigest()[:16]

    key = unchanged(found)
    return read() if key is None else kept_text(f"fingerprint-{key}", read)


def unchanged(found: Sequence[tuple[str, tuple[str, ...], list[tuple[str, int]]]]) -> str | None:
    """What changes whenever a file does, without reading them: names, sizes, times of the last change.

    None where reading is quick, or a file has just been changed: a second change in the same moment might not show.
    """
    total, size, newest = hashlib.sha256(), 0, 0
    try:
        for part, classes, samples in found:
            total.update(repr((part, classes)).encode())
            for file, number in samples:
                state = os.stat(file)
                size, newest = size + state.st_size, max(newest, state.st_ctime_ns)
                total.update(
                    repr((os.path.abspath(file), number, state.st_size, state.st_mtime_ns, state.st_ctime_ns)).encode()
                )
    except OSError:
        return None
    return None if size < LONG or time.time_ns() - newest < SETTLED else total.hexdigest()


def sha256(file: str) -> bytes:
    """The checksum of a file."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()

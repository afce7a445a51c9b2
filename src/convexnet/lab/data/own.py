"""A user's own images: a folder with a folder for each class, or arrays in an .npz file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from convexnet.lab.data.files import CorruptData, DataError, MissingData, opened
from convexnet.lab.data.noise import generator_for
from convexnet.lab.data.parts import Split
from convexnet.lab.data.sources import Source

HELD_OUT = 0.2
"""The share that becomes the test part where the data come in one part; the same images for every seed."""

MOST_CLASSES = 100_000
"""Beyond that, labels are surely something else."""

TRAIN_KEYS = (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train"))
TEST_KEYS = (("test_images", "test_labels"), ("x_test", "y_test"))
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test",)
VALIDATION_FOLDERS = ("val", "valid", "validation")
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that are images."""


def halved(whole: Split, classnames: tuple[str, ...], what: str) -> Source:
    """A set that comes in one part, with a test part carved from it that no seed changes."""
    order = torch.randperm(len(whole), generator=generator_for(0, "test part"))
    held = round(HELD_OUT * len(whole))
    if not 0 < held < len(whole):
        raise DataError(f"{what} has {len(whole)} images, too few to hold some out for a test")
    note = f"no test part was given: {held} of {len(whole)} images, the same for every seed, were held out"
    test, train = whole.rows(order[:held].sort().values), whole.rows(order[held:].sort().values)
    return Source(train, test, classnames, note=note)


# --- arrays ----------------------------------------------------------------------------------------------------------


def archive(path: Path) -> Source:
    """An .npz file with images and labels.

    Images are bytes or floating-point numbers, (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) with one or three
    colours; labels are integers from 0. The arrays are `images` and `labels`, and `test_images` and `test_labels`
    where there is a test part (or x_train, y_train, x_test, y_test). `classnames` is an array of strings.
    """
    found = opened(path)
    pairs = [next((keys for keys in known if keys[0] in found), None) for known in (TRAIN_KEYS, TEST_KEYS)]
    if pairs[0] is None:
        raise CorruptData(
            f"{path} has no array 'images' (with 'labels'): it has {', '.join(sorted(found)) or 'no arrays'}"
        )
    halves = [labelled(path, found, *keys) for keys in pairs if keys is not None]
    if len({half.images.shape[1:] for half in halves}) > 1 or len({half.images.dtype for half in halves}) > 1:
        raise CorruptData(f"{path}: training and test images differ: {' and '.join(map(repr, halves))}")
    classes = 1 + max(int(half.labels.max()) for half in halves)
    if classes > MOST_CLASSES:
        raise CorruptData(f"{path}: labels go up to {classes - 1}; they must be the numbers of classes, from 0")
    names = tuple(str(name) for name in found["classnames"]) if "classnames" in found else numbered(classes)
    if len(names) < classes:
        raise CorruptData(f"{path}: classnames has {len(names)} names, and labels go up to {classes - 1}")
    source = Source(halves[0], halves[1], names) if len(halves) == 2 else halved(halves[0], names, str(path))
    unused = sorted({*range(classes)} - {*source.train.labels.unique().tolist()})
    if unused:  # as where labels begin with 1
        said = f"no training image has the label {', '.join(map(str, unused[:10]))}"
        return replace(source, note="; ".join(filter(None, [source.note, said])))
    return source


def numbered(classes: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(str(number) for number in range(classes))


def labelled(path: Path, found: Mapping[str, np.ndarray], images: str, labels: str) -> Split:
    """One part from two arrays, in this package's layout."""
    if labels not in found:
        raise CorruptData(f"{path} has {images!r} and no {labels!r}")
    pictures, numbers = found[images], found[labels]
    if not pictures.size or pictures.ndim < 2:
        raise CorruptData(f"{path}: {images!r} is {pictures.shape}; it must be (N, D), (N, H, W) or with colours")
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.ndim != 1 or len(numbers) != len(pictures) or not len(numbers):
        raise CorruptData(
            f"{path}: {labels!r} {numbers.shape} must hold one label for each of {images!r} {pictures.shape}"
        )
    if numbers.dtype.kind not in "iu" or int(numbers.min()) < 0:
        raise CorruptData(f"{path}: {labels!r} must be integers from 0, not {numbers.dtype} {numbers.flat[0]!r} ...")
    if pictures.dtype != np.uint8:
        if pictures.dtype.kind != "f":
            raise CorruptData(f"{path}: {images!r} must be uint8 or floating-point, not {pictures.dtype}")
        with np.errstate(over="ignore"):
            pictures = pictures.astype(np.float32)
        if not np.isfinite(pictures).all():
            raise CorruptData(f"{path}: {images!r} has values that are not finite in float32")
    return Split(torch.from_numpy(channels_first(path, images, pictures)), torch.from_numpy(numbers.astype(np.int64)))


def channels_first(path: Path, name: str, images: np.ndarray) -> np.ndarray:
    """Images as (N, C, H, W), vectors as they are."""
    if images.ndim == 2:
        return images
    if images.ndim == 3:
        return images[:, None]
    first, last = (images.ndim == 4 and images.shape[place] in (1, 3) for place in (1, -1))
    if first == last:
        raise CorruptData(
            f"{path}: {name!r} is {images.shape}; it must be (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W), "
            "with one or three colours in one place only"
        )
    return images if first else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


# --- folders ---------------------------------------------------------------------------------------------------------


def folders(path: Path) -> Source:
    """A folder with `train`, `val` and `test` inside, each with a folder of images for each class; or the classes.

    Where there is no `test`, `val` is the test part; where there are both, `val` is the validation part. All images
    must have one size: they are kept in memory as bytes. They are read as RGB, and upright where a camera says how it
    was held.
    """
    if not path.is_dir():
        raise MissingData(f"there is no folder {path.absolute()}: give a folder with a folder of images for each class")
    train = inside(path, TRAIN_FOLDERS)
    if train is None:
        whole, names = decoded(path)
        return halved(whole, names, str(path))
    test, held = inside(path, TEST_FOLDERS), inside(path, VALIDATION_FOLDERS)
    if test is None:
        test, held = held, None
    (first, names), *others = [decoded(part) for part in (train, test, held) if part is not None]
    for (second, own), folder in zip(others, (test, held), strict=False):
        if names != own:
            raise DataError(
                f"{train} and {folder} have different classes: {', '.join(sorted({*names} ^ {*own})[:5])} "
                f"{'is' if len({*names} ^ {*own}) == 1 else 'are'} in one of them only"
            )
        if first.images.shape[1:] != second.images.shape[1:]:
            raise DataError(f"{train} and {folder} have images of different sizes: {first} and {second}")
    if not others:
        return halved(first, names, str(train))
    return Source(first, others[0][0], names, validation=others[1][0] if held is not None else None)


def inside(path: Path, names: Sequence[str]) -> Path | None:
    """The first of some folders that is there."""
    return next((path / name for name in names if (path / name).is_dir()), None)


def decoded(folder: Path) -> tuple[Split, tuple[str, ...]]:
    """All images under a folder with a folder for each class, and the names of the classes."""
    names, samples = listed(folder)
    images = np.empty(0, np.uint8)
    size = 0, 0
    for row, (name, _) in enumerate(samples):
        pixels = pixels_of(name)
        if row == 0:
            size = pixels.shape[:2]
            require_memory(folder, len(samples), pixels.size)
            images = np.empty((len(samples), 3, *size), np.uint8)
        if pixels.shape[:2] != size:
            raise DataError(
                f"images must have one size: {samples[0][0]} is {size[0]} x {size[1]}, {name} is "
                f"{pixels.shape[0]} x {pixels.shape[1]}. Resize them first"
            )
        images[row] = pixels.transpose(2, 0, 1)
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return Split(torch.from_numpy(images), labels), names


def pixels_of(path: Path) -> np.ndarray:
    """An image as bytes (H, W, 3).

    Raises:
        CorruptData: it cannot be read, or would be too large.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.mode.startswith(("I", "F")):
                    raise ValueError(f"its pixels ({picture.mode}) are not bytes; convert it to 8 bits a colour")
                return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise CorruptData(
            f"{path} would have more pixels than an image should (at most {Image.MAX_IMAGE_PIXELS}): {error}"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise CorruptData(f"{path} cannot be read as an image of bytes; it may be truncated: {error}") from error


def listed(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """The classes of a folder, and every real file that is an image, once, with the number of its class.

    Raises:
        MissingData: there are no classes, or one has no image.
        DataError: one file is in two classes.
    """
    root = folder.resolve()
    classes = tuple(sorted(e.name for e in folder.iterdir() if e.is_dir() and not root.is_relative_to(e.resolve())))
    if not classes:
        raise MissingData(f"{folder.absolute()} must hold a folder of images for each class, and has no folders")
    owner: dict[Path, int] = {}
    samples: list[tuple[Path, int]] = []
    visited: set[Path] = set()
    for number, name in enumerate(classes):
        count = len(samples)
        for _, place in sorted((str(place), place) for place in places_in(folder / name, root, visited)):
            for file in sorted(e for e in place.iterdir() if e.suffix.lower() in ENDINGS and e.is_file()):
                real = file.resolve()
                if owner.get(real, number) != number:
                    raise DataError(f"{file} and an image of {classes[owner[real]]!r} are one file: of which class?")
                if real not in owner:
                    owner[real] = number
                    samples.append((file, number))
        if len(samples) == count:
            raise MissingData(f"{folder / name} has no images of its own; a folder of images for each class is needed")
    return classes, samples


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
    total = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    parts = [part for part in (*TRAIN_FOLDERS, *TEST_FOLDERS, *VALIDATION_FOLDERS) if (path / part).is_dir()]
    for part in parts if inside(path, TRAIN_FOLDERS) is not None else ["."] if path.is_dir() else []:
        with contextlib.suppress(DataError, OSError):
            classes, samples = listed(path / part)
            total.update(repr((part, classes)).encode())
            for place, number in samples:
                with place.open("rb") as file:
                    total.update(f"{number} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return total.hexdigest()[:16]


def require_memory(folder: Path, count: int, size: int) -> None:
    """Refuse a set of images, of this many bytes each, that this machine cannot hold."""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else count * size
    if count * size > here:
        raise DataError(
            f"{folder} has {count} images of {size} bytes, {count * size / 2**30:.1f} GiB in all; this machine has "
            f"{here / 2**30:.1f}, and a set is kept in memory here. Make the images smaller"
        )

"""Read a user's own images: a folder with a folder for each class (`folder:PATH`), or arrays (`npz:PATH`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from convexnet.lab.data.data_set import Part, Split
from convexnet.lab.data.files import CorruptData, DataError, MissingData, opened
from convexnet.lab.data.folder import (
    TEST_FOLDERS,
    TRAIN_FOLDERS,
    VALIDATION_FOLDERS,
    centred,
    fingerprint,
    inside,
    listed,
    pixels_of,
    size_of,
    unreadable,
)
from convexnet.lab.data.noise import generator_for
from convexnet.lab.data.sources import PublishedSet
from convexnet.lab.data.streamed import Streamed

HELD_OUT = 0.2
"""The share that becomes the test part where the data come in one part; the same images for every seed."""

MOST_CLASSES = 100_000
"""Beyond that, labels are surely something else."""

TRAIN_KEYS = (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train"))
TEST_KEYS = (("test_images", "test_labels"), ("x_test", "y_test"))
IN_MEMORY = 2**30
"""Bytes of images beyond which a folder is not kept in memory, where nobody says what to do."""

LOOKED_AT = 64
"""Images whose size is looked at before the size of all is known."""


@dataclass(frozen=True)
class Pictures:
    """How a folder of images is read.

    Attributes:
        size: of the squares that images become: each is resized and its middle cut out. None: they have one size.
        streamed: whether images stay in their files and are decoded in every epoch; None: where they have more than
            `IN_MEMORY` bytes.
        workers: processes that decode streamed images.
        skip: leave out, and log, images that cannot be read; otherwise the first one is an error. All images are
            decoded once for that before anything else.
    """

    size: int | None = None
    streamed: bool | None = None
    workers: int = 0
    skip: bool = False


Samples = Sequence[tuple[str, int]]
"""Files and classes."""

LOG = logging.getLogger(__name__)

PLAIN = Pictures()
"""Images of one size, in memory unless there are many."""


def split_in_half(whole: Part, classnames: tuple[str, ...], what: str) -> PublishedSet:
    """A set that comes in one part, with a test part carved from it that no seed changes."""
    order = torch.randperm(len(whole), generator=generator_for(0, "test part"))
    held = round(HELD_OUT * len(whole))
    if not 0 < held < len(whole):
        raise DataError(f"{what} has {len(whole)} images, too few to hold some out for a test")
    note = f"no test part was given: {held} of {len(whole)} images, the same for every seed, were held out"
    test, train = whole.rows(order[:held].sort().values), whole.rows(order[held:].sort().values)
    return PublishedSet(train, test, classnames, note=note)


# --- arrays ----------------------------------------------------------------------------------------------------------


def archive(path: Path) -> PublishedSet:
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
    halves = [split_from_arrays(path, found, *keys) for keys in pairs if keys is not None]
    if len({half.images.shape[1:] for half in halves}) > 1 or len({half.images.dtype for half in halves}) > 1:
        raise CorruptData(f"{path}: training and test images differ: {' and '.join(map(repr, halves))}")
    classes = 1 + max(int(half.labels.max()) for half in halves)
    if classes > MOST_CLASSES:
        raise CorruptData(f"{path}: labels go up to {classes - 1}; they must be the numbers of classes, from 0")
    names = tuple(str(name) for name in found["classnames"]) if "classnames" in found else class_numbers(classes)
    if len(names) < classes:
        raise CorruptData(f"{path}: classnames has {len(names)} names, and labels go up to {classes - 1}")
    source = (
        PublishedSet(halves[0], halves[1], names) if len(halves) == 2 else split_in_half(halves[0], names, str(path))
    )
    unused = sorted({*range(classes)} - {*source.train.labels.unique().tolist()})
    if unused:  # as where labels begin with 1
        said = f"no training image has the label {', '.join(map(str, unused[:10]))}"
        return replace(source, note="; ".join(filter(None, [source.note, said])))
    return source


def class_numbers(classes: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(str(number) for number in range(classes))


def split_from_arrays(path: Path, found: Mapping[str, np.ndarray], images: str, labels: str) -> Split:
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


def folders(path: Path, how: Pictures = PLAIN) -> PublishedSet:
    """A folder with `train`, `val` and `test` inside, each with a folder of images for each class; or the classes.

    Where there is no `test`, `val` is the test part; where there are both, `val` is the validation part. Images are
    read as RGB, and upright where a camera says how it was held. They must have one size, or `how` gives them one.
    """
    places, found = parts_of(path)
    samples, left_out = readable_samples(found) if how.skip else ([own for _, own in found], "")
    size = size_for(samples, how)
    streamed = is_streamed(samples, size, how)
    parts: list[Part]
    if streamed:
        parts = [Streamed.of(own, size, how.workers) for own in samples]
    else:
        require_memory(path, sum(map(len, samples)), 3 * size[0] * size[1])
        parts = [decode_all(own, size, alike=how.size is None) for own in samples]
    names, said = found[0][0], streaming_note(size) if streamed else ""
    if len(parts) == 1:
        source = split_in_half(parts[0], names, str(places[0]))
    else:
        source = PublishedSet(parts[0], parts[1], names, validation=parts[2] if len(parts) == 3 else None)
    note = "; ".join(filter(None, [source.note, left_out, said]))
    source = replace(source, note=note, centred=streamed or how.size is not None)
    if not streamed:
        return source
    return replace(source, fingerprint=fingerprint(path))


def parts_of(path: Path) -> tuple[list[Path], list[tuple[tuple[str, ...], list[tuple[str, int]]]]]:
    """The folders that are parts: training, test and validation, or the only one; each with its classes and images.

    Raises:
        DataError: there are none, or they have different classes.
    """
    if not path.is_dir():
        raise MissingData(f"there is no folder {path.absolute()}: give a folder with a folder of images for each class")
    train = inside(path, TRAIN_FOLDERS)
    test, held = inside(path, TEST_FOLDERS), inside(path, VALIDATION_FOLDERS)
    if test is None:
        test, held = held, None
    places = [path] if train is None else [place for place in (train, test, held) if place is not None]
    found = [listed(place) for place in places]
    for place, (names, _) in zip(places[1:], found[1:], strict=True):
        if names != found[0][0]:
            differing = sorted({*names} ^ {*found[0][0]})
            lacking = place if differing[0] in found[0][0] else places[0]
            raise DataError(
                f"{places[0]} and {place} have different classes: {', '.join(differing[:5])} "
                f"{'is' if len(differing) == 1 else 'are'} in one of them only. Every part needs a folder with images "
                f"for each class, as {lacking / differing[0]} would be; or move away the folder that it lacks"
            )
    return places, found


def readable_samples(found: Sequence[tuple[tuple[str, ...], Samples]]) -> tuple[list[Samples], str]:
    """The images of each part without those that cannot be read, and a sentence that says how many these are.

    Each of these is logged with the reason.

    Raises:
        MissingData: nothing is left of a class.
    """
    kept: list[Samples] = []
    lost: list[str] = []
    for names, samples in found:
        wrong = unreadable(samples)
        for reason in wrong.values():
            LOG.warning("left out: %s", reason)
        lost += wrong
        fine = [(file, number) for file, number in samples if file not in wrong]
        if gone := {*range(len(names))} - {number for _, number in fine}:
            raise MissingData(f"no image of the class {names[min(gone)]!r} can be read, such as {next(iter(wrong))}")
        kept.append(fine)
    if not lost:
        return kept, ""
    total = sum(len(samples) for _, samples in found)
    return kept, f"{len(lost)} of {total} images could not be read and were left out, such as {lost[0]}"


def streamed_by_size(path: Path, how: Pictures) -> bool:
    """Whether a folder is so large that its images stay in their files."""
    found = parts_of(path)[1]
    samples = readable_samples(found)[0] if how.skip and how.size is None else [own for _, own in found]
    return is_streamed(samples, size_for(samples, how), how)


def streaming_note(size: tuple[int, int]) -> str:
    """What a reader of a result must know of streamed images."""
    return f"images were decoded as they were needed, {size[0]} x {size[1]} from the middle of each for measurements"


def size_for(parts: Sequence[Samples], how: Pictures) -> tuple[int, int]:
    """Height and width of all images: as asked for, or that of the first one, which some others must have too.

    Raises:
        DataError: they differ, and none was asked for.
    """
    if how.size is not None:
        return how.size, how.size
    first = Path(parts[0][0][0])
    size = size_of(first)
    for samples in parts:
        for name, _ in samples[:: max(1, len(samples) // LOOKED_AT)]:
            if (other := size_of(Path(name))) != size:
                raise size_error(first, size, name, other)
    return size


def size_error(first: Path | str, size: Sequence[int], name: str, other: Sequence[int]) -> DataError:
    """The error for images of different sizes."""
    return DataError(
        f"images must have one size: {first} is {size[0]} x {size[1]}, {name} is {other[0]} x {other[1]}. Say which "
        "size they shall be given (--image-size 224), or resize them first"
    )


def is_streamed(parts: Sequence[Samples], size: tuple[int, int], how: Pictures) -> bool:
    """Whether these images stay in their files."""
    if how.streamed is not None:
        return how.streamed
    return sum(map(len, parts)) * 3 * size[0] * size[1] > IN_MEMORY


def decode_all(samples: Samples, size: tuple[int, int], *, alike: bool) -> Split:
    """All of these images in memory; `alike` says that they must have this size, and are not brought to it.

    Raises:
        DataError: one has another size, or cannot be read.
    """
    images = np.empty((len(samples), 3, *size), np.uint8)
    for row, (name, _) in enumerate(samples):
        pixels = torch.from_numpy(pixels_of(Path(name))).permute(2, 0, 1)
        if alike and tuple(pixels.shape[1:]) != size:
            raise size_error(samples[0][0], size, name, pixels.shape[1:])
        images[row] = centred(pixels, size).numpy()
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return Split(torch.from_numpy(images), labels)


def require_memory(folder: Path, count: int, size: int) -> None:
    """Refuse a set of images, of this many bytes each, that this machine cannot hold."""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else count * size
    if count * size > here:
        raise DataError(
            f"{folder} has {count} images of {size} bytes, {count * size / 2**30:.1f} GiB in all; this machine has "
            f"{here / 2**30:.1f}. Leave them in their files (--stream), or make them smaller (--image-size)"
        )

"""The named data sets, read from their official files through torchvision's own classes.

A file is compared with its published checksum before it is read: a damaged one is named, and a pickle (CIFAR) that is
not the official one is never opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convexnet.lab.data.data_set import Part, Split
from convexnet.lab.data.files import CorruptData, DataError, MissingData, check, discard_damaged, opened
from convexnet.lab.data.small import pixels

MNIST_SUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Of the unpacked files; the published sums are of the packed ones."""

FASHION_SUMS = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, eq=False)
class PublishedSet:
    """A data set as it was published, before anything is carved or made wrong; few have a validation part.

    `fingerprint` stands for its content where that is not in memory; `centred` says that the images are the middle of
    larger ones.
    """

    train: Part
    test: Part
    classnames: tuple[str, ...]
    extra: Mapping[str, Part] = field(default_factory=dict[str, Part])
    note: str = ""
    validation: Part | None = None
    fingerprint: str = ""
    centred: bool = False


def part(images: Any, labels: Any, *, last: bool = False) -> Split:
    """A part from arrays or tensors; `last` says that channels come last."""
    pixels = torch.as_tensor(images)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif last:
        pixels = pixels.permute(0, 3, 1, 2)
    return Split(pixels.contiguous(), torch.as_tensor(labels).long())


def construct_data_set(
    construct: Callable[..., Any],
    folder: Path,
    download: bool,
    what: str,
    *,
    files: Iterable[tuple[str, str]] = (),
    within: str = ".",
    **options: Any,
) -> None:
    """Let torchvision download a set, if that was asked for.

    Args:
        files: names and md5 sums; damaged ones are downloaded again, as after a download that was interrupted.
        within: where they are in the folder.
    """
    if not download:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        discard_damaged(folder / within, files)
        construct(folder, download=True, **options)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{what} could not be downloaded to {folder.absolute()}: {error}") from error


def remedy(where: str) -> str:
    """How to get files that torchvision knows."""
    return f"Download them (--download, or load(..., download=True)) from {where}, or name their folder (--data-dir)."


# --- MNIST and Fashion-MNIST -----------------------------------------------------------------------------------------


def mnist(folder: Path, download: bool) -> PublishedSet:
    """MNIST, 60,000 + 10,000 images 1 x 28 x 28."""
    from torchvision.datasets import MNIST

    return idx(MNIST, MNIST_SUMS, folder, download)


def fashion_mnist(folder: Path, download: bool) -> PublishedSet:
    """Fashion-MNIST, 60,000 + 10,000 images 1 x 28 x 28."""
    from torchvision.datasets import FashionMNIST

    return idx(FashionMNIST, FASHION_SUMS, folder, download)


def idx(kind: Any, sums: Mapping[str, str], folder: Path, download: bool) -> PublishedSet:
    """A set in MNIST's format."""
    construct_data_set(kind, folder, download, kind.__name__, files=sums.items(), within=f"{kind.__name__}/raw")
    check(folder / kind.__name__ / "raw", sums.items(), what=kind.__name__, remedy=remedy(kind.mirrors[0]))
    train, test = kind(folder, train=True), kind(folder, train=False)
    names = tuple(str(name) for name in kind.classes)
    return PublishedSet(part(train.data, train.targets), part(test.data, test.targets), names)


# --- CIFAR and ciFAIR ------------------------------------------------------------------------------------------------


CIFAIR_TESTS = {
    "cifair10": ("test_batch", "01290e6b622a1977a000eff13650aca2"),
    "cifair100": ("test", "8130dae8d6fc6a436437f0ebdb801df1"),
}
"""The test files of ciFAIR; its training files are those of CIFAR."""


def kinds() -> dict[str, Any]:
    """The CIFAR classes of torchvision, and the same for ciFAIR, whose files have the same format.

    ciFAIR repeats the training images of CIFAR; among its test images those with a near-duplicate in the training part
    are replaced. Source: Barz & Denzler, Do We Train on Test Data? (2020).
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    class CIFAIR10(CIFAR10):
        base_folder = "ciFAIR-10"
        url = "https://github.com/cvjena/cifair/releases/download/v1.0/ciFAIR-10.zip"
        filename = "ciFAIR-10.zip"
        tgz_md5 = "ca08fd390f0839693d3fc45c4e49585f"
        test_list = [list(CIFAIR_TESTS["cifair10"])]  # noqa: RUF012 (as in the base class)

    class CIFAIR100(CIFAR100):
        base_folder = "ciFAIR-100"
        url = "https://github.com/cvjena/cifair/releases/download/v1.0/ciFAIR-100.zip"
        filename = "ciFAIR-100.zip"
        tgz_md5 = "ddc236ab4b12eeb8b20b952614861a33"
        test_list = [list(CIFAIR_TESTS["cifair100"])]  # noqa: RUF012

    return {"cifar10": CIFAR10, "cifar100": CIFAR100, "cifair10": CIFAIR10, "cifair100": CIFAIR100}


def cifar(name: str, other: str) -> Callable[[Path, bool], PublishedSet]:
    """A reader of one set, with the test part of the other as an extra where its files are there too."""

    def read(folder: Path, download: bool) -> PublishedSet:
        found = pickled(name, folder, download)
        if not (folder / kinds()[other].base_folder).is_dir():
            return found
        try:
            twin = pickled(other, folder, download=False)
        except MissingData as error:
            return replace(found, note=f"the test part of {other} is left out: {error}")
        return replace(found, extra={f"{other}-test": twin.test})

    return read


def pickled(name: str, folder: Path, download: bool) -> PublishedSet:
    """A set in CIFAR's format, 50,000 + 10,000 images 3 x 32 x 32."""
    kind = kinds()[name]
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    construct_data_set(
        kind, folder, download, name, files=[(file, md5) for file, md5 in files], within=kind.base_folder
    )
    check(
        folder / kind.base_folder,
        [(file, md5) for file, md5 in files],
        what=name,
        remedy=remedy(kind.url),
    )
    train, test = kind(folder, train=True), kind(folder, train=False)
    first, second = (part(half.data, half.targets, last=True) for half in (train, test))
    return PublishedSet(first, second, tuple(train.classes))


# --- the held-out half of CIFAR-10 -----------------------------------------------------------------------------------

HOLDOUT_FILES = {
    "cifar10-train.npz": {"images": "17e2cb5a4119d89a4a13e02b91701bff", "labels": "69c5f3349be54915edfca558b72ad888"},
    "cifar10-test1017.npz": {
        "images": "0c4c38dfa836385de34b32047bf21481",
        "labels": "dccf1fa74ac8724bb1790516cb80da42",
    },
}
"""md5 sums of the arrays themselves: those of the official images in the official order."""

HOLDOUT_TRAIN = 40_000
OFFICIAL = 1_017


def holdout(folder: Path, download: bool) -> PublishedSet:
    """CIFAR-10 without its test half: train on records 0-39,999, test on 40,000-49,999, the fifth official batch.

    Read from `cifar10-train.npz` and `cifar10-test1017.npz`, or from the official files where those are not there.
    """
    if not download and not any((folder / name).is_file() for name in HOLDOUT_FILES):
        official = folder / kinds()["cifar10"].base_folder
        if not official.is_dir():
            raise MissingData(
                f"cifar10-holdout is neither in {folder.absolute()}, as {' and '.join(HOLDOUT_FILES)}, nor in "
                f"{official.absolute()}, as the official files. {remedy(kinds()['cifar10'].url)}"
            )
    if all((folder / name).is_file() for name in HOLDOUT_FILES):
        whole, tests = (arrays(folder / name, sums) for name, sums in HOLDOUT_FILES.items())
        whole, tests = (part(found["images"], found["labels"], last=True) for found in (whole, tests))
    else:
        source = pickled("cifar10", folder, download)
        whole, tests = source.train, source.test
    numbers = torch.arange(len(whole))
    return PublishedSet(
        train=whole.rows(numbers[:HOLDOUT_TRAIN]),
        test=whole.rows(numbers[HOLDOUT_TRAIN:]),
        classnames=CIFAR10_NAMES,
        extra={"official-1017": tests.rows(torch.arange(min(OFFICIAL, len(tests))))},
        note=(
            "partial CIFAR-10: trained on the first 40,000 training images, tested on the last 10,000 of them; "
            "official-1017 are the first 1,017 images of the official test half"
        ),
    )


def arrays(path: Path, sums: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file that `sums` names, each with the md5 sum given there."""
    found = opened(path)
    for name, expected in sums.items():
        if name not in found:
            raise CorruptData(f"{path} has no array {name!r}; it has {', '.join(sorted(found)) or 'none'}")
        got = hashlib.md5(np.ascontiguousarray(found[name]).data, usedforsecurity=False).hexdigest()
        if got != expected:
            raise CorruptData(
                f"{path}: the array {name!r} is not the official one: its md5 sum is {got}, not {expected}. "
                "Make the file again"
            )
    return found


# --- SVHN, STL-10 and the digits -------------------------------------------------------------------------------------


def svhn(folder: Path, download: bool) -> PublishedSet:
    """SVHN, 73,257 + 26,032 images 3 x 32 x 32; its extra training images are not used."""
    from torchvision.datasets import SVHN

    for half in ("train", "test"):
        construct_data_set(SVHN, folder, download, "SVHN", split=half)
    files = [(SVHN.split_list[half][1], SVHN.split_list[half][2]) for half in ("train", "test")]
    check(folder, files, what="SVHN", remedy=remedy("http://ufldl.stanford.edu/housenumbers/"))
    train, test = SVHN(folder, split="train"), SVHN(folder, split="test")
    return PublishedSet(part(train.data, train.labels), part(test.data, test.labels), numerals(10))


def stl10(folder: Path, download: bool) -> PublishedSet:
    """STL-10, 5,000 + 8,000 images 3 x 96 x 96; the unlabelled ones are not used, and need not be there."""
    from torchvision.datasets import STL10

    class Labelled(STL10):
        train_list: list[list[str]] = STL10.train_list[:2]

    construct_data_set(Labelled, folder, download, "STL-10")
    files = [(name, md5) for name, md5 in [*Labelled.train_list, *Labelled.test_list]]
    check(folder / STL10.base_folder, files, what="STL-10", remedy=remedy(STL10.url))
    train, test = Labelled(folder, split="train"), Labelled(folder, split="test")
    named: Sequence[str] = getattr(train, "classes", ())
    return PublishedSet(part(train.data, train.labels), part(test.data, test.labels), tuple(named) or numerals(10))


def digits8x8(folder: Path, download: bool) -> PublishedSet:
    """Scikit-learn's 1,797 digits 1 x 8 x 8, split 1,347 + 450 by class; 17 grey levels, spread over 0 to 255."""
    del folder, download
    from sklearn.model_selection import train_test_split

    grey, labels = pixels()
    train, test = train_test_split(np.arange(len(labels)), test_size=450, stratify=labels, random_state=0)
    images = torch.from_numpy(np.rint(grey * (255 / 16)).astype(np.uint8)).reshape(-1, 1, 8, 8)
    whole = part(images, labels)
    first, second = (whole.rows(torch.from_numpy(np.sort(rows))) for rows in (train, test))
    return PublishedSet(
        first,
        second,
        numerals(10),
        note="scikit-learn's digits: 450 of them, the same for every seed, are the test part",
    )


def numerals(classes: int) -> tuple[str, ...]:
    """Class names where the files have none."""
    return tuple(str(number) for number in range(classes))


SOURCES: Mapping[str, Callable[[Path, bool], PublishedSet]] = {
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "svhn": svhn,
    "stl10": stl10,
    "cifar10": cifar("cifar10", "cifair10"),
    "cifar100": cifar("cifar100", "cifair100"),
    "cifair10": cifar("cifair10", "cifar10"),
    "cifair100": cifar("cifair100", "cifar100"),
    "cifar10-holdout": holdout,
    "digits": digits8x8,
}

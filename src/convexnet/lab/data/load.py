"""`load`: read a data set by its name, split it, and make labels wrong where that is asked for; used by every run."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from convexnet.lab.data.data_set import DataSet, Part, Split
from convexnet.lab.data.files import DataError, MissingData
from convexnet.lab.data.folder import fingerprint
from convexnet.lab.data.noise import HUMAN, KINDS, generator_for, human, resampled, wrong_labels
from convexnet.lab.data.sources import SOURCES, PublishedSet
from convexnet.lab.data.user_images import PLAIN, Pictures, archive, folders, streamed_by_size

PREFIXES = ("folder", "npz")

FOLDERS: Mapping[str, Pictures] = MappingProxyType(
    {"tiny-imagenet-20": Pictures(64, streamed=False), "imagenet": Pictures(224, streamed=True)}
)
"""Published sets that are folders of images, `train` and `val`, under their own name in the folder of the data sets.

Of "tiny-imagenet-20" it has twenty classes of Tiny-ImageNet (`convexnet.lab.studies.report_imagenet` names them); of
"imagenet" the thousand of ILSVRC 2012, in the layout that torchvision's `ImageFolder` takes.
"""

NAMES = (*SOURCES, *FOLDERS, "folder:PATH", "npz:PATH")
"""What `load` knows. PATH is a folder with a folder for each class (of images), or an .npz file."""

PEOPLE_LABELLED = ("cifar10", "cifair10", "cifar10-holdout")
"""Sets whose training images are CIFAR-10's, in the official order."""


def load(
    name: str,
    data_dir: Path | str | None = None,
    *,
    seed: int = 0,
    validation: float = 0.1,
    noise: float = 0.0,
    noise_kind: str = "symmetric-including",
    noisy_validation: bool = False,
    train_samples: int | None = None,
    download: bool = False,
    pictures: Pictures = PLAIN,
) -> DataSet:
    """A data set, split into training, validation and test parts: bytes (N, C, H, W) in memory, and labels.

    Of a user's folder the images may stay in their files instead, see `Pictures`.

    The validation part is carved from the training part by a permutation of `seed`, where the data have none of their
    own; the test part is the published one and the same for every seed. Wrong labels are in the training part alone,
    and its true labels stay beside them; in the validation part they are where `noisy_validation` says so.

    Args:
        name: one of `NAMES`.
        data_dir: the folder of the data sets, in torchvision's layout; not needed for digits, folder: and npz:.
        seed: of the permutation and of the wrong labels, which are independent of each other.
        validation: the share of the training part that becomes the validation part, in [0, 1).
        noise: the percentage of training labels that are drawn anew, 0 to 100; 0 for CIFAR-10N.
        noise_kind: one of `KINDS`: whether a draw may give the true class again, or the column of CIFAR-10N.
        noisy_validation: whether the labels of the validation part are made wrong like those to train on.
        train_samples: train on this many images only, the first ones of the permutation.
        download: let torchvision download missing files to `data_dir`; otherwise no network is used.
        pictures: how images of folder: are read; has no meaning for other sets.

    Raises:
        MissingData, CorruptData: files are not there, or not the published ones. Each is named.
        DataError: all images to train on are of one class. Classes without an image among them are named in `note`.
        ValueError: an unknown name or kind, or a number outside its range.

    Example:
        >>> data = load("digits", noise=40, noise_kind="symmetric-excluding")
        >>> data.train, data.validation, len(data.test)
        (Split(1212 x uint8[1, 8, 8], 40.02 % wrong labels), Split(135 x uint8[1, 8, 8]), 450)
    """
    check(validation, noise, noise_kind, train_samples)
    source = read(name, data_dir, download, pictures)
    whole, of_people = source.train, ""
    classes = len(source.classnames)
    if noise_kind in HUMAN:
        if name not in PEOPLE_LABELLED:
            raise ValueError(f"{noise_kind} labels the images of {', '.join(PEOPLE_LABELLED)}, not those of {name}")
        whole = whole.relabelled(human(noise_kind, Path(data_dir or "."), whole.clean))
        of_people = hashlib.sha256(whole.labels.numpy().tobytes()).hexdigest()[:16]

    own = source.validation
    chosen, held = carve(len(whole), validation if own is None else 0.0, train_samples, seed)
    train, kept = whole.rows(chosen), whole.rows(held) if own is None else own
    if noise_kind not in HUMAN and noise:
        draw = resampled if noise_kind == "symmetric-including" else wrong_labels
        drawn = draw(train.clean, noise / 100, classes, generator_for(seed, "noise").initial_seed())
        train = train.relabelled(drawn)
        if noisy_validation:
            other = generator_for(seed, "noise of validation").initial_seed()
            kept = kept.relabelled(draw(kept.clean, noise / 100, classes, other))
    note = absent(train, source, name)
    said = noise_kind if noise_kind in HUMAN else f"{noise_kind} {noise:g} %" if noise else ""
    return DataSet(
        name=name,
        train=train,
        validation=kept if noisy_validation else kept.relabelled(kept.clean),
        test=source.test,
        classes=classes,
        classnames=source.classnames,
        extra=source.extra,
        note="; ".join(filter(None, [source.note, note])),
        noise=said,
        fingerprint=source.fingerprint or content_of(source),
        noise_fingerprint=of_people,
        centred=source.centred,
    )


def absent(train: Part, source: PublishedSet, name: str) -> str:
    """Name the classes that the published training part has and the images to train on have not; empty where there is
    none.

    Raises:
        DataError: all images to train on are of one class, of which nothing can be learnt.
    """
    if train.clean.is_floating_point():
        return ""
    here, all_of_them = set(train.clean.unique().tolist()), set(source.train.clean.unique().tolist())
    if len(here) < 2:
        (only,) = here
        why = "all its training images are" if len(all_of_them) < 2 else f"the {len(train)} images to train on are all"
        raise DataError(
            f"{name}: {why} of the class {source.classnames[only]}: nothing can be learnt of one class. Give images of "
            "two or more"
        )
    missing = [source.classnames[number] for number in sorted(all_of_them - here)]
    if not missing:
        return ""
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return f"none of the {len(train)} images to train on is of the class {', '.join(missing[:10])}{more}"


def content_of(source: PublishedSet) -> str:
    """Sixteen hexadecimal digits that stand for the images and labels of a set, of all its parts."""
    total = hashlib.sha256()
    for part in (source.train, source.validation, source.test):
        if isinstance(part, Split):
            for tensor in (part.images, part.clean):
                total.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
                total.update(cast("Any", tensor.contiguous().view(torch.uint8).numpy()))
    return total.hexdigest()[:16]


def streams(name: str, pictures: Pictures) -> bool:
    """Whether the images of a set stay in their files, which only those of a folder may.

    Raises:
        DataError: the folder is not there, or its images differ in size and none is asked for.
    """
    if name in FOLDERS:
        return bool(FOLDERS[name].streamed if pictures.streamed is None else pictures.streamed)
    prefix, colon, path = name.partition(":")
    if not colon or prefix != "folder" or not path:
        return False
    return pictures.streamed if pictures.streamed is not None else streamed_by_size(Path(path).expanduser(), pictures)


def fingerprint_of(name: str) -> str:
    """What stands for the content of a user's own data; empty for a published set, which is compared with its checksum.

    Example:
        >>> fingerprint_of("mnist")
        ''
    """
    prefix, colon, path = name.partition(":")
    return fingerprint(Path(path).expanduser()) if colon and prefix in PREFIXES and path else ""


def check(validation: float, noise: float, noise_kind: str, train_samples: int | None) -> None:
    """Refuse what no data set can have, before any file is read."""
    if noise_kind not in KINDS:
        raise ValueError(
            f"noise_kind must be one of {', '.join(KINDS)}, not {noise_kind!r}{closest(noise_kind, KINDS)}"
        )
    if not 0 <= noise <= 100:
        raise ValueError(f"noise is a percentage of the training labels, from 0 to 100, not {noise}")
    if noise and noise_kind in HUMAN:
        raise ValueError(f"the labels of {noise_kind} are what people gave: leave noise at 0, not {noise}")
    if not 0 <= validation < 1:
        raise ValueError(f"validation is a share of the training part, in [0, 1), not {validation}")
    if train_samples is not None and train_samples < 1:
        raise ValueError(f"train_samples must be at least 1, not {train_samples}")


def closest(name: str, known: tuple[str, ...]) -> str:
    """The end of a sentence, with a question that names what was probably meant where something is close."""
    found = difflib.get_close_matches(name.lower(), known, n=1)
    return f". Did you mean {found[0]!r}?" if found else "."


def read(name: str, data_dir: Path | str | None, download: bool, pictures: Pictures = PLAIN) -> PublishedSet:
    """The published data of this name."""
    prefix, colon, path = name.partition(":")
    if colon and prefix in PREFIXES:
        if not path:
            raise ValueError(f"{name!r} needs a path after the colon, such as {prefix}:my-images")
        place = Path(path).expanduser()
        return folders(place, pictures) if prefix == "folder" else archive(place)
    if name in FOLDERS:
        if data_dir is None:
            raise MissingData(f"{name} is read from the folder {name} of --data-dir: name the folder that it is in")
        own = FOLDERS[name]
        size = own.size if pictures.size is None else pictures.size
        streamed = own.streamed if pictures.streamed is None else pictures.streamed
        return folders(Path(data_dir).expanduser() / name, replace(pictures, size=size, streamed=streamed))
    if pictures.skip:
        raise ValueError(f"{name} has no images in files that could be left out: --skip-unreadable is of folder:PATH")
    if (pictures.size, pictures.streamed) != (None, None):
        raise ValueError(f"{name} is kept in memory as it is: --stream and --image-size are of folder:PATH")
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}{closest(name, NAMES)} Known are {', '.join(NAMES)}")
    if name == "digits":
        return SOURCES[name](Path(), False)
    if data_dir is None:
        raise MissingData(f"{name} is read from files: name the folder they are in, or are downloaded to (--data-dir)")
    return SOURCES[name](Path(data_dir).expanduser(), download)


def carve(count: int, validation: float, train_samples: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers of the training part and of the validation part, each in ascending order."""
    held = math.floor(count * validation + 0.5)
    if validation and not held:
        raise ValueError(f"validation is {validation} of {count} images, which is none: choose a larger share, or 0")
    order = torch.randperm(count, generator=generator_for(seed, "split"))
    rest = order[held:]
    if train_samples is not None and train_samples > len(rest):
        raise ValueError(f"train_samples is {train_samples}, and there are {len(rest)} images to train on")
    if not len(rest):
        raise ValueError(f"nothing is left to train on: {held} of {count} images are held out for validation")
    return rest[:train_samples].sort().values, order[:held].sort().values

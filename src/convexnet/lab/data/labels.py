"""Data with many labels a sample: Mulan's ARFF files, dense or sparse, such as those of BibTeX."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from convexnet.lab.data.files import CorruptData, MissingData
from convexnet.lab.data.noise import generator_for

BIBTEX_FROM = "Mulan's page of multi-label data sets (bibtex-train.arff and bibtex-test.arff)"

ATTRIBUTE = re.compile(r"@attribute\s+('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S+)\s+(.*)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ManyLabels:
    """Samples x (N, d) and their labels y (N, L), 0 or 1, in three parts.

    Attributes:
        train, validation, test: (x, y) of each part; `validation` is carved from the training part.
        labels: their names.
        fingerprint: stands for the content of the files.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    labels: tuple[str, ...]
    fingerprint: str


def bibtex(data_dir: Path | str | None, *, seed: int = 0, validation: float = 0.1) -> ManyLabels:
    """BibTeX: 4,880 + 2,515 bookmarks, 1,836 words, 159 tags, from the published ARFF files.

    Args:
        data_dir: the folder of the data sets; the files lie in it, or in `bibtex/` inside it.
        seed: of the permutation by which the validation part is carved from the training part.
        validation: its share.

    Raises:
        MissingData, CorruptData: a file is not there, or is not what it should be.

    Source: Katakis, Tsoumakas & Vlahavas, Multilabel Text Classification for Automated Tag Suggestion (2008).
    """
    if data_dir is None:
        raise MissingData("bibtex is read from files: name the folder they are in (--data-dir)")
    folder = Path(data_dir).expanduser()
    places = [folder / "bibtex", folder]
    names = ("bibtex-train.arff", "bibtex-test.arff")
    home = next((place for place in places if all((place / name).is_file() for name in names)), None)
    if home is None:
        looked = " nor in ".join(str(place.absolute()) for place in places)
        raise MissingData(f"{' and '.join(names)} are neither in {looked}. Get them from {BIBTEX_FROM}")
    return many_labels(*(home / name for name in names), seed=seed, validation=validation)


def many_labels(train: Path, test: Path, *, seed: int = 0, validation: float = 0.1) -> ManyLabels:
    """Two ARFF files of one set, as training and test part.

    Labels are the attributes that Mulan's XML file next to the training part names (`NAME.xml`), or, where there is
    none, those whose names begin with TAG_.

    Raises:
        MissingData, CorruptData: a file is not there, or is not what it should be.
    """
    (x, y, labels), (other, targets, others) = read_arff(train), read_arff(test)
    if labels != others or x.shape[1] != other.shape[1]:
        raise CorruptData(
            f"{train} has {x.shape[1]} features and {len(labels)} labels, {test} has {other.shape[1]} and "
            f"{len(others)}, or others by name: they are not two parts of one set"
        )
    order = torch.randperm(len(x), generator=generator_for(seed, "split"))
    held = round(len(x) * validation)
    kept, rest = order[:held].sort().values, order[held:].sort().values
    total = hashlib.sha256()
    for part in (x, y, other, targets):
        total.update(cast("Any", part.contiguous().numpy()))
    return ManyLabels((x[rest], y[rest]), (x[kept], y[kept]), (other, targets), labels, total.hexdigest()[:16])


def read_arff(path: Path) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Features (N, d), labels (N, L) and the names of the labels, of one file.

    Raises:
        MissingData: there is no such file.
        CorruptData: a line is not what it should be; it is named by its number.
    """
    try:
        lines = enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
    except OSError as error:
        raise MissingData(f"{path.absolute()} cannot be read: {error.strerror or error}") from error
    names = attributes(path, lines)
    labels = labels_named(path) or tuple(name for name in names if name.startswith("TAG_"))
    columns = {name: index for index, name in enumerate(names)}
    if missing := [name for name in labels if name not in columns]:
        raise CorruptData(f"{path} has no attribute {missing[0]!r}, which is named as a label")
    if not labels:
        raise CorruptData(
            f"{path} does not say which attributes are labels: none begins with TAG_, and there is no "
            f"{xml_of(path).name} next to it"
        )
    rows: list[Tensor] = []
    for number, line in lines:
        if line.strip() and not line.lstrip().startswith("%"):
            try:
                rows.append(row_of(line.strip(), len(names)))
            except ValueError as error:
                raise CorruptData(f"{path}, line {number}: {error}") from None
    if not rows:
        raise CorruptData(f"{path} has no data: is it cut off?")
    table = torch.stack(rows)
    chosen = torch.zeros(len(names), dtype=torch.bool)
    chosen[[columns[name] for name in labels]] = True
    y = table[:, [columns[name] for name in labels]]
    if bool(((y != 0) & (y != 1)).any()):
        raise CorruptData(f"{path}: a label is neither 0 nor 1")
    return table[:, ~chosen], y, labels


def attributes(path: Path, lines: Iterator[tuple[int, str]]) -> list[str]:
    """The names of the attributes, up to the line @data.

    Raises:
        CorruptData: an attribute that cannot be read, or no line @data.
    """
    names: list[str] = []
    for number, line in lines:
        word = line.strip().lower()
        if word == "@data":
            return names
        if word.startswith("@attribute"):
            found = ATTRIBUTE.match(line.strip())
            if found is None:
                raise CorruptData(f"{path}, line {number}: not an attribute: {line.strip()[:60]!r}")
            names.append(found[1].strip("'\""))
    raise CorruptData(f"{path} has no line @data: it is cut off, or no ARFF file")


def row_of(text: str, count: int) -> Tensor:
    """The numbers of a line, sparse or dense, (count,).

    Raises:
        ValueError: it is not a row of so many numbers.

    Example:
        >>> row_of("{0 1,2 0.5}", 3), row_of("1,0,0.5", 3)
        (tensor([1.0000, 0.0000, 0.5000]), tensor([1.0000, 0.0000, 0.5000]))
    """
    if text.startswith("{") != text.endswith("}"):
        raise ValueError("half a row: the file is cut off")
    if not text.startswith("{"):
        values = [float(part) for part in text.split(",")]
        if len(values) != count:
            raise ValueError(f"{len(values)} numbers, and there are {count} attributes")
        return torch.tensor(values)
    row = torch.zeros(count)
    pairs = [part.split() for part in text[1:-1].split(",") if part.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a sparse row has pairs of a number of an attribute and a value")
    places = [int(place) for place, _ in pairs]
    if any(not 0 <= place < count for place in places):
        raise ValueError(f"attribute {max(places)}, and there are 0 to {count - 1}")
    row[places] = torch.tensor([float(value) for _, value in pairs])
    return row


def xml_of(path: Path) -> Path:
    """Mulan's file of label names for a data file: that of bibtex-train.arff is bibtex.xml."""
    return path.with_name(f"{path.stem.removesuffix('-train').removesuffix('-test')}.xml")


def labels_named(path: Path) -> tuple[str, ...]:
    """The labels that Mulan's XML file names; none where there is no such file.

    Raises:
        CorruptData: it cannot be read.
    """
    source = xml_of(path)
    if not source.is_file():
        return ()
    try:
        root = ElementTree.fromstring(source.read_text(encoding="utf-8"))
    except (ElementTree.ParseError, OSError, UnicodeDecodeError) as error:
        raise CorruptData(f"{source} cannot be read as Mulan's list of labels: {error}") from None
    return tuple(part.attrib["name"] for part in root.iter() if part.tag.rpartition("}")[2] == "label")


def many_labels_of_chance(count: int = 300, features: int = 20, labels: int = 6, seed: int = 0) -> ManyLabels:
    """Samples whose labels are where linear functions of them are positive: to see that a study runs."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(count, features, generator=generator) < 0.3).float()
    y = (x @ torch.randn(features, labels, generator=generator) > 0.5).float()
    third = count // 3
    parts = [(x[rows], y[rows]) for rows in torch.arange(count).split(third)[:3]]
    names = tuple(f"label {index}" for index in range(labels))
    return ManyLabels(parts[0], parts[1], parts[2], names, "of chance")

"""Every set in its real file format, in tiny; and what is said of files that are missing, damaged or something else."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor
from torchvision import datasets

from convexnet.lab import data
from convexnet.lab.data import noise, sources, user_images
from convexnet.lab.data.load import FOLDERS

TRAIN, TEST = 20, 6


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def drawn(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + count).integers(0, 256, (count, *shape), dtype=np.uint8)


def labelled(count: int, classes: int = 10) -> np.ndarray:
    return (np.arange(count) % classes).astype(np.int64)


# --- writers, one for each format: they return what must be read back -------------------------------------------------

Expected = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images (N, C, H, W) and labels of train and test
Writer = Callable[[Path, pytest.MonkeyPatch], Expected]


def write_idx(folder: str, table: str) -> Writer:
    def write(root: Path, patch: pytest.MonkeyPatch) -> Expected:
        raw = root / folder / "raw"
        raw.mkdir(parents=True)
        found: list[np.ndarray] = []
        for half, count in (("train", TRAIN), ("t10k", TEST)):
            images, labels = drawn(count, 28, 28), labelled(count)
            header = struct.pack(">4i", 2051, count, 28, 28)
            (raw / f"{half}-images-idx3-ubyte").write_bytes(header + images.tobytes())
            (raw / f"{half}-labels-idx1-ubyte").write_bytes(
                struct.pack(">2i", 2049, count) + labels.astype(np.uint8).tobytes()
            )
            found += [images[:, None], labels]
        patch.setattr(sources, table, {path.name: md5(path) for path in raw.iterdir()})
        return found[0], found[1], found[2], found[3]

    return write


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    root.mkdir(exist_ok=True)
    found: list[np.ndarray] = []
    listed: dict[str, list[str]] = {}
    for half, count in (("train", TRAIN), ("test", TEST)):
        images, labels = drawn(count, 3, 32, 32), labelled(count)
        # Height, width, colours, number; the digit 0 has the label 10.
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)
        savemat(root / f"{half}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": stored[:, None]})
        listed[half] = ["", f"{half}_32x32.mat", md5(root / f"{half}_32x32.mat")]
        found += [images, labels]
    patch.setattr(datasets.SVHN, "split_list", listed)
    return found[0], found[1], found[2], found[3]


def write_stl10(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    found: list[np.ndarray] = []
    for half, count in (("train", TRAIN), ("test", TEST)):
        images, labels = drawn(count, 3, 96, 96), labelled(count)
        # Column by column, and labels from 1.
        images.transpose(0, 1, 3, 2).tofile(folder / f"{half}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{half}_y.bin")
        patch.setattr(
            datasets.STL10, f"{half}_list", [[f"{half}_{k}.bin", md5(folder / f"{half}_{k}.bin")] for k in "Xy"]
        )
        found += [images, labels]
    (folder / "class_names.txt").write_text("\n".join(f"thing {k}" for k in range(10)))
    return found[0], found[1], found[2], found[3]


def write_cifar(name: str, folder: str, fine: bool, seed: int = 0) -> Writer:
    """CIFAR-10 in five training files, CIFAR-100 in one; ciFAIR has the same training files and another test file."""
    key, count, kind = ("fine_labels", 100, "CIFAR100") if fine else ("labels", 10, "CIFAR10")
    trains = ["train"] if fine else [f"data_batch_{k}" for k in range(1, 6)]
    test = "test" if fine else "test_batch"

    def write(root: Path, patch: pytest.MonkeyPatch) -> Expected:
        base = root / folder
        base.mkdir(parents=True)
        images, labels = drawn(TRAIN, 3, 32, 32), labelled(TRAIN, count)
        tests, test_labels = drawn(TEST, 3, 32, 32, seed=seed), labelled(TEST, count)

        def store(file: str, rows: np.ndarray, numbers: np.ndarray) -> list[str]:
            (base / file).write_bytes(pickle.dumps({"data": rows.reshape(len(rows), -1), key: numbers.tolist()}))
            return [file, md5(base / file)]

        parts = [
            store(f, *pair)
            for f, *pair in zip(trains, *(np.split(a, len(trains)) for a in (images, labels)), strict=True)
        ]
        tested = store(test, tests, test_labels)
        meta = datasets.CIFAR100.meta if fine else datasets.CIFAR10.meta
        names = [f"class {k}" for k in range(count)]
        (base / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: names}))
        own = getattr(datasets, kind)
        patch.setattr(own, "train_list", parts)
        patch.setattr(own, "meta", {**meta, "md5": md5(base / meta["filename"])})
        if name.startswith("cifair"):
            patch.setitem(sources.CIFAIR_TESTS, name, tuple(tested))
        else:
            patch.setattr(own, "test_list", [tested])
        return images, labels, tests, test_labels

    return write


def write_holdout(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    root.mkdir(exist_ok=True)
    images, labels = drawn(TRAIN + TEST, 3, 32, 32), labelled(TRAIN + TEST)
    extra, numbers = drawn(4, 3, 32, 32), labelled(4)
    sums: dict[str, dict[str, str]] = {}
    for file, pixels, classes in (("cifar10-train", images, labels), ("cifar10-test1017", extra, numbers)):
        stored = {"images": np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), "labels": classes.astype(np.uint8)}
        np.savez(root / f"{file}.npz", **stored)
        sums[f"{file}.npz"] = {key: hashlib.md5(value.tobytes()).hexdigest() for key, value in stored.items()}
    patch.setattr(sources, "HOLDOUT_FILES", sums)
    patch.setattr(sources, "HOLDOUT_TRAIN", TRAIN)
    return images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]


WRITERS: dict[str, Writer] = {
    "mnist": write_idx("MNIST", "MNIST_SUMS"),
    "fashion-mnist": write_idx("FashionMNIST", "FASHION_SUMS"),
    "svhn": write_svhn,
    "stl10": write_stl10,
    "cifar10": write_cifar("cifar10", "cifar-10-batches-py", fine=False),
    "cifar100": write_cifar("cifar100", "cifar-100-python", fine=True),
    "cifair10": write_cifar("cifair10", "ciFAIR-10", fine=False),
    "cifair100": write_cifar("cifair100", "ciFAIR-100", fine=True),
    "cifar10-holdout": write_holdout,
}


def same(split: data.Split, images: np.ndarray, labels: np.ndarray) -> bool:
    found = np.array_equal(split.images.numpy(), images) and np.array_equal(split.clean.numpy(), labels)
    return found and split.images.is_contiguous()


def test_every_named_set_has_a_writer() -> None:
    folders = {*FOLDERS, "folder:PATH"}  # of images, whose reading test_streamed.py looks at
    assert {*WRITERS, *folders, "digits", "npz:PATH"} == {*data.NAMES}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read_back_byte_for_byte(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_images, train_labels, test_images, test_labels = WRITERS[name](tmp_path, monkeypatch)
    found = data.load(name, tmp_path, validation=0.0)
    assert same(found.train, train_images, train_labels)
    assert same(found.test, test_images, test_labels)
    assert found.classes == len(found.classnames) == (100 if name.endswith("100") else 10)
    assert found.shape == train_images.shape[1:]


@pytest.mark.parametrize("name", WRITERS)
def test_a_flipped_bit_is_noticed_and_the_file_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".txt"):
        whole = path.read_bytes()
        place = len(whole) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(data.CorruptData, match=path.name):
            data.load(name, tmp_path)
        path.write_bytes(whole[:-1])
        with pytest.raises(data.CorruptData, match=path.name):
            data.load(name, tmp_path)
        path.write_bytes(whole)
    data.load(name, tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_missing_data_say_where_they_were_looked_for_and_how_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(data.MissingData, match="--download") as caught:
        data.load(name, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "http" in str(caught.value)
    with pytest.raises(data.MissingData, match="name the folder"):
        data.load(name)


def test_one_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["cifar10"](tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(data.MissingData, match="data_batch_3 is missing"):
        data.load("cifar10", tmp_path)


def test_a_pickle_that_is_not_the_official_one_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["cifar10"](tmp_path, monkeypatch)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "opened",))

    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(data.CorruptData, match="test_batch"):
        data.load("cifar10", tmp_path)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_half_a_download_is_fetched_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    whole = data.load(name, tmp_path)
    file = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file() and "t" in path.name)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])  # as torchvision leaves it, which looks for a file only
    with pytest.raises(data.CorruptData, match=file.name):
        data.load(name, tmp_path)

    def fetch(kind: Any, *arguments: Any, **keywords: Any) -> None:
        assert not file.exists(), "or torchvision would take it for the whole one"
        file.write_bytes(content)

    for kind in (datasets.MNIST, datasets.CIFAR10):
        monkeypatch.setattr(kind, "download", fetch)
    again = data.load(name, tmp_path, download=True)
    assert again.fingerprint == whole.fingerprint


def test_a_download_without_a_network_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(data.DataError, match="no network"):
        data.load("cifar10", tmp_path / "new", download=True)


# --- ciFAIR beside CIFAR, CIFAR-10 in part, CIFAR-10N -----------------------------------------------------------------


@pytest.mark.parametrize(("name", "other"), [("cifar10", "cifair10"), ("cifair100", "cifar100")])
def test_the_test_part_of_the_twin_comes_along(
    name: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"cifar10": "cifar-10-batches-py", "cifair10": "ciFAIR-10"}
    folders |= {"cifar100": "cifar-100-python", "cifair100": "ciFAIR-100"}
    images: dict[str, np.ndarray] = {}
    for seed, each in enumerate((name, other)):
        written = write_cifar(each, folders[each], fine=name.endswith("100"), seed=seed)(tmp_path, monkeypatch)
        images[each] = written[2]
    found = data.load(name, tmp_path)
    assert np.array_equal(found.test.images.numpy(), images[name])
    assert np.array_equal(found.extra[f"{other}-test"].images.numpy(), images[other])
    assert not np.array_equal(images[name], images[other])


def test_an_incomplete_twin_is_left_out_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["cifar10"](tmp_path, monkeypatch)
    (tmp_path / "ciFAIR-10").mkdir()
    found = data.load("cifar10", tmp_path)
    assert not found.extra
    assert "cifair10 is left out" in found.note
    assert "data_batch_1" in found.note


def test_the_held_out_half_comes_from_the_official_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels, tests, _ = WRITERS["cifar10"](tmp_path, monkeypatch)
    monkeypatch.setattr(sources, "HOLDOUT_TRAIN", 16)
    monkeypatch.setattr(sources, "OFFICIAL", 4)
    found = data.load("cifar10-holdout", tmp_path, validation=0)
    assert same(found.train, images[:16], labels[:16])
    assert same(found.test, images[16:], labels[16:])
    assert np.array_equal(found.extra["official-1017"].images.numpy(), tests[:4])
    assert "partial" in found.note


COLUMNS = ("clean_label", *noise.HUMAN.values())


def people(clean: np.ndarray) -> dict[str, np.ndarray]:
    """A column for each kind, the true labels with as many wrong ones as its place in the list."""
    found = {name: clean.copy() for name in COLUMNS}
    for wrong, name in enumerate(COLUMNS):
        found[name][:wrong] = (clean[:wrong] + 1) % 10
    return found


@pytest.mark.parametrize("form", noise.HUMAN_FILES)
@pytest.mark.parametrize("kind", noise.HUMAN)
def test_labels_given_by_people(kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels, _, _ = WRITERS["cifar10-holdout"](tmp_path, monkeypatch)
    # The file has a label for every published image; this set begins with the same ones.
    columns = people(np.concatenate([labels, labelled(TEST)]))
    if form.endswith("npz"):
        np.savez(tmp_path / form, **{name: column.astype(np.uint8) for name, column in columns.items()})
    else:
        torch.save(columns, tmp_path / form)
    found = data.load("cifar10-holdout", tmp_path, noise_kind=kind, validation=0)
    assert np.array_equal(found.train.labels.numpy(), columns[noise.HUMAN[kind]][:TRAIN])
    assert np.array_equal(found.train.clean.numpy(), labels)
    assert found.true_fraction == 1 - COLUMNS.index(noise.HUMAN[kind]) / TRAIN
    assert found.noise == kind
    # Rows keep their labels when a part is held out, and that part has its true ones.
    assert len(found.noise_fingerprint) == 16
    assert data.load("cifar10-holdout", tmp_path).noise_fingerprint == ""
    carved = data.load("cifar10-holdout", tmp_path, noise_kind=kind, validation=0.3, seed=4)
    assert carved.noise_fingerprint == found.noise_fingerprint, "of the labels as they were published"
    pairs = zip(found.train.images.numpy(), found.train.labels.tolist(), strict=True)
    whole = {image.tobytes(): label for image, label in pairs}
    assert [whole[image.tobytes()] for image in carved.train.images.numpy()] == carved.train.labels.tolist()
    assert carved.validation.true_fraction == 1


def test_people_who_labelled_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels, _, _ = WRITERS["cifar10-holdout"](tmp_path, monkeypatch)
    kind = "cifar10n-worse"
    with pytest.raises(data.MissingData, match="noisylabels"):
        data.load("cifar10-holdout", tmp_path, noise_kind=kind)
    columns = people(labels)
    bad = {
        "other images": {**columns, "clean_label": (labels + 1) % 10},
        "worse_label": {name: column for name, column in columns.items() if name != "worse_label"},
        "a label for each": {name: column[:3] for name, column in columns.items()},
        "from 0 to 77": {**columns, "worse_label": np.where(labels == 3, 77, labels)},
    }
    for message, stored in bad.items():
        np.savez(tmp_path / "cifar10n.npz", **stored)
        with pytest.raises(data.CorruptData, match=message):
            data.load("cifar10-holdout", tmp_path, noise_kind=kind)
    with pytest.raises(ValueError, match="not those of digits"):
        data.load("digits", tmp_path, noise_kind=kind)
    with pytest.raises(ValueError, match="leave noise at 0"):
        data.load("cifar10-holdout", tmp_path, noise_kind=kind, noise=40)


def test_a_published_file_that_would_run_code_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["cifar10-holdout"](tmp_path, monkeypatch)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "opened",))

    torch.save({"clean_label": Trap()}, tmp_path / "CIFAR-10_human.pt")
    with pytest.raises(data.CorruptData, match="not the published file"):
        data.load("cifar10-holdout", tmp_path, noise_kind="cifar10n-worse")
    assert not (tmp_path / "opened").exists()


# --- a user's own -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["first", "last", "grey", "vectors", "floats"])
@pytest.mark.parametrize("keys", [("images", "labels"), ("x_train", "y_train")])
def test_arrays_in_every_layout(layout: str, keys: tuple[str, str], tmp_path: Path) -> None:
    first = drawn(30, 3, 6, 5)
    wanted, stored = {
        "first": (first, first),
        "last": (first, first.transpose(0, 2, 3, 1)),
        "grey": (first[:, :1], first[:, 0]),
        "vectors": (first[:, 0, 0], first[:, 0, 0]),
        "floats": (first / np.float32(255), first / 255),
    }[layout]
    labels = labelled(30, 3)
    test = ("test_images", "test_labels") if keys[0] == "images" else ("x_test", "y_test")
    path = tmp_path / "user_images.npz"
    np.savez(path, **{keys[0]: stored, keys[1]: labels[:, None], test[0]: stored[:4], test[1]: labels[:4]})
    found = data.load(f"npz:{path}", validation=0)
    assert same(found.train, wanted, labels)
    assert same(found.test, wanted[:4], labels[:4])
    assert found.train.images.dtype == (torch.float32 if layout == "floats" else torch.uint8)
    assert (found.classes, found.classnames, found.note) == (3, ("0", "1", "2"), "")


def test_arrays_in_one_part_get_a_test_part_that_no_seed_changes(tmp_path: Path) -> None:
    path = tmp_path / "user_images.npz"
    np.savez(
        path, images=np.arange(50, dtype=np.uint8)[:, None], labels=1 + labelled(50, 2), classnames=["x", "a", "b"]
    )
    first, second = (data.load(f"npz:{path}", seed=seed, validation=0.25) for seed in (0, 1))
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.validation.images, second.validation.images)
    parts = [first.train, first.validation, first.test]
    assert [len(part) for part in parts] == [30, 10, 10]
    assert sorted(torch.cat([part.images for part in parts]).flatten().tolist()) == list(range(50))
    assert first.classnames == ("x", "a", "b")
    assert "10 of 50 images" in first.note
    assert "no training image has the label 0" in first.note


def test_classes_without_an_image_to_train_on_are_named(tmp_path: Path) -> None:
    path = tmp_path / "user_images.npz"
    labels = np.repeat(np.arange(3), 20)
    np.savez(path, images=drawn(60, 6), labels=labels, test_images=drawn(3, 6), test_labels=np.arange(3))
    assert data.load(f"npz:{path}", validation=0).note == ""
    few = data.load(f"npz:{path}", train_samples=2)
    (missing,) = {"0", "1", "2"} - {str(label) for label in few.train.labels.tolist()}
    assert f"none of the 2 images to train on is of the class {missing}" in few.note
    np.savez(path, images=drawn(20, 6), labels=np.ones(20, np.int64))
    with pytest.raises(data.DataError, match=r"all its training images are of the class 1: nothing can be learnt"):
        data.load(f"npz:{path}")
    np.savez(path, images=drawn(20, 6), labels=np.repeat([0, 1], [19, 1]), test_images=drawn(1, 6), test_labels=[0])
    with pytest.raises(data.DataError, match=r"the 2 images to train on are all of the class 0: nothing"):
        data.load(f"npz:{path}", train_samples=2)


GOOD = {"images": drawn(8, 3, 6, 5), "labels": labelled(8, 2)}


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"pictures": GOOD["images"]}, "no array 'images'"),
        ({"images": GOOD["images"]}, "no 'labels'"),
        ({**GOOD, "labels": labelled(7, 2)}, "one label for each"),
        ({**GOOD, "labels": labelled(8) / 2}, "integers from 0"),
        ({**GOOD, "labels": labelled(8) - 1}, "integers from 0"),
        ({**GOOD, "labels": np.array(["cat"] * 8)}, "integers from 0"),
        ({**GOOD, "images": np.uint8(3)}, "it must be"),
        ({**GOOD, "images": np.zeros((8, 0), np.uint8)}, "it must be"),
        ({**GOOD, "images": np.full((8, 2), 1e300)}, "not finite in float32"),
        ({**GOOD, "labels": np.full(8, 2**60)}, "numbers of classes"),
        ({**GOOD, "images": drawn(8, 3, 6, 3)}, "one place only"),
        ({**GOOD, "images": drawn(8, 5, 6, 4)}, "one or three colours"),
        ({**GOOD, "images": drawn(8, 3, 6, 5).astype(np.int64)}, "uint8 or floating-point"),
        ({**GOOD, "images": np.full((8, 2), np.nan)}, "not finite"),
        ({**GOOD, "test_images": drawn(4, 1, 6, 5), "test_labels": labelled(4, 2)}, "differ"),
        ({**GOOD, "classnames": ["only one"]}, "classnames has 1"),
        ({**GOOD, "images": np.array([{"a": 1}] * 8)}, "plain arrays"),
        ({"images": drawn(0, 3, 6, 5), "labels": labelled(0)}, "it must be"),
    ],
)
def test_arrays_that_are_no_data_set(stored: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "user_images.npz", **stored)
    with pytest.raises(data.CorruptData, match=message) as caught:
        data.load(f"npz:{tmp_path / 'user_images.npz'}")
    assert "user_images.npz" in str(caught.value)


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "user_images.npz"
    with pytest.raises(data.MissingData, match=r"user_images\.npz"):
        data.load(f"npz:{path}")
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:-30], b"", b"hello", whole[:100] + b"\0" * 50 + whole[150:]):
        path.write_bytes(broken)
        with pytest.raises(data.CorruptData, match=r"user_images\.npz"):
            data.load(f"npz:{path}")
    with path.open("wb") as file:
        np.save(file, GOOD["images"])
    with pytest.raises(data.CorruptData, match="single array"):
        data.load(f"npz:{path}")


def draw_folders(root: Path, classes: tuple[str, ...], count: int, seed: int = 0, side: int = 7) -> np.ndarray:
    """PNG files in a folder for each class; their pixels, class by class."""
    found: list[np.ndarray] = []
    for place, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k, pixels in enumerate(drawn(count, side, 6, 3, seed=seed + 10 * place)):
            Image.fromarray(pixels).save(root / name / f"{k}.png")
            found.append(pixels.transpose(2, 0, 1))
    return np.stack(found)


@pytest.mark.parametrize("test", ["test", "val"])
def test_folders_of_images(test: str, tmp_path: Path) -> None:
    images = draw_folders(tmp_path / "train", ("cat", "dog"), 3)
    tests = draw_folders(tmp_path / test, ("cat", "dog"), 2, seed=5)
    found = data.load(f"folder:{tmp_path}", validation=0)
    assert same(found.train, images, np.array([0, 0, 0, 1, 1, 1]))
    assert same(found.test, tests, np.array([0, 0, 1, 1]))
    assert found.classnames == ("cat", "dog")


def test_a_folder_in_one_part(tmp_path: Path) -> None:
    draw_folders(tmp_path, ("cat", "dog"), 5)
    found = data.load(f"folder:{tmp_path}", validation=0)
    assert (len(found.train), len(found.test)) == (8, 2)
    assert "held out" in found.note


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(data.MissingData, match="there is no folder"):
        data.load(f"folder:{tmp_path / 'none'}")
    with pytest.raises(data.MissingData, match="a folder of images for each class"):
        data.load(f"folder:{tmp_path}")
    draw_folders(tmp_path / "train", ("cat", "dog"), 3)
    draw_folders(tmp_path / "test", ("cat", "cow"), 3)
    with pytest.raises(data.DataError, match="cow, dog are in one"):
        data.load(f"folder:{tmp_path}")
    (tmp_path / "test" / "cow").rename(tmp_path / "test" / "dog")
    odd = tmp_path / "train" / "cat" / "9.png"
    Image.fromarray(drawn(1, 9, 6, 3)[0]).save(odd)
    with pytest.raises(data.DataError, match=r"one size: .*9\.png is 9 x 6"):
        data.load(f"folder:{tmp_path}")
    Image.fromarray(np.full((7, 6), 60_000, np.uint16)).save(odd)
    with pytest.raises(data.CorruptData, match=r"9\.png .*8 bits a colour"):
        data.load(f"folder:{tmp_path}")
    odd.write_bytes(odd.read_bytes()[:60])
    with pytest.raises(data.CorruptData, match=r"9\.png"):
        data.load(f"folder:{tmp_path}")


def test_links_are_followed_to_new_images_only(tmp_path: Path) -> None:
    root, other = tmp_path / "set", tmp_path / "elsewhere"
    draw_folders(root, ("cat", "dog"), 8)
    whole = data.load(f"folder:{root}", validation=0)
    (root / "cat" / "loop").symlink_to(".")
    (root / "cat" / "up").symlink_to("..")
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "again.png").symlink_to("0.png")
    (root / "all").symlink_to(".")
    again = data.load(f"folder:{root}", validation=0)
    assert torch.equal(again.train.images, whole.train.images)
    assert torch.equal(again.test.images, whole.test.images)
    assert (again.classnames, again.fingerprint) == (whole.classnames, whole.fingerprint)
    draw_folders(other, ("more",), 2, seed=40)
    (root / "cat" / "more").symlink_to(other / "more")
    assert len(data.load(f"folder:{root}", validation=0).train) == 14
    (root / "dog" / "cat.png").symlink_to(root / "cat" / "0.png")
    with pytest.raises(data.DataError, match="are one file: of which class"):
        data.load(f"folder:{root}")


def test_a_validation_folder_is_the_validation_part(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val", "test")):
        draw_folders(tmp_path / name, ("cat", "dog"), 2, seed=seed)
    found = data.load(f"folder:{tmp_path}", validation=0.5)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [4, 4, 4]
    assert not torch.equal(found.validation.images, found.test.images)
    held = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "val").rglob("*.png"))]
    assert np.array_equal(found.validation.images.permute(0, 2, 3, 1).numpy(), np.stack(held))


def test_pictures_are_upright(tmp_path: Path) -> None:
    draw_folders(tmp_path, ("cat", "dog"), 5)
    turned = Image.open(tmp_path / "cat" / "0.png")
    upright = np.asarray(turned)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the right
    turned.rotate(90, expand=True).save(tmp_path / "cat" / "0.png", exif=exif)
    found = data.load(f"folder:{tmp_path}", validation=0)
    images = torch.cat([found.train.images, found.test.images])
    assert bool((images == torch.from_numpy(upright.copy()).permute(2, 0, 1)).flatten(1).all(1).any())


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folders(tmp_path, ("cat", "dog"), 5)
    for most in (40, 20):  # 42 pixels: more than should be, and more than twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(data.CorruptData, match=f"more pixels than an image should .at most {most}"):
            data.load(f"folder:{tmp_path}")


def test_a_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_folders(tmp_path / name, ("cat", "dog"), 5)
    first = data.fingerprint_of(f"folder:{tmp_path / 'one'}")
    assert len(first) == 16
    assert first == data.fingerprint_of(f"folder:{tmp_path / 'two'}"), "not of a path"
    files = tmp_path / "two" / "cat" / "0.png", tmp_path / "two" / "cat" / "1.png"
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, reversed(contents), strict=True):
        path.write_bytes(content)
    assert data.fingerprint_of(f"folder:{tmp_path / 'two'}") != first, "the order decides who is held out"
    assert data.load(f"folder:{tmp_path / 'two'}").fingerprint != data.load(f"folder:{tmp_path / 'one'}").fingerprint
    assert data.fingerprint_of("digits") == data.fingerprint_of("folder:") == ""


def test_more_images_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folders(tmp_path, ("cat", "dog"), 5)
    monkeypatch.setattr(user_images.os, "sysconf", lambda name: 30)  # 900 bytes, and ten images have 1260
    with pytest.raises(data.DataError, match="10 images of 126 bytes"):
        data.load(f"folder:{tmp_path}")


# --- real data --------------------------------------------------------------------------------------------------------

REAL = Path(__file__).resolve().parents[3] / ".data"


def errors_per_class(split: data.Split, other: data.Split, classes: int) -> Tensor:
    """Of a nearest-mean classifier: pixels and labels that do not belong together would leave nothing to learn."""
    means = torch.stack([split.images[split.clean == k].double().mean(0).flatten() for k in range(classes)])
    return torch.cdist(other.images.double().flatten(1), means).argmin(1) != other.clean


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "sizes", "most"),
    [
        ("mnist", (54_000, 6_000, 10_000), 0.2),
        ("fashion-mnist", (54_000, 6_000, 10_000), 0.35),
        ("cifar10-holdout", (36_000, 4_000, 10_000), 0.75),
    ],
)
def test_real_images_belong_to_their_labels(name: str, sizes: tuple[int, int, int], most: float) -> None:
    found = data.load(name, REAL)
    assert (len(found.train), len(found.validation), len(found.test)) == sizes
    for part in (found.validation, found.test, *found.extra.values()):
        wrong = errors_per_class(found.train, part, found.classes).double().mean()
        assert float(wrong) < most
        # The negative control: the same images under shuffled labels.
        mixed = data.Split(part.images, part.labels[torch.randperm(len(part))])
        assert float(errors_per_class(found.train, mixed, found.classes).double().mean()) > 0.85


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "wrong"), [("cifar10n-aggre", 0.0903), ("cifar10n-random1", 0.172), ("cifar10n-worse", 0.402)]
)
def test_how_often_people_are_wrong(kind: str, wrong: float) -> None:
    """As Wei et al. state it for all 50,000 images."""
    found = data.load("cifar10-holdout", REAL, noise_kind=kind, validation=0)
    assert 1 - found.true_fraction == pytest.approx(wrong, abs=0.005)

"""Images that stay in their files: the same batches as in memory, from any position, with any number of workers."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import convexnet as cx
from convexnet.lab.cli.app import app
from convexnet.lab.data import (
    CorruptData,
    DataError,
    MissingData,
    Pictures,
    augmentation,
    batches,
    load,
    streams,
    user_images,
)
from convexnet.lab.data.folder import centred, pixels_of, size_of
from convexnet.lab.data.streamed import Paths, Streamed, sampled
from convexnet.lab.models import architectures
from convexnet.lab.models.saved import network_of, predictions
from convexnet.lab.runs.run import run
from convexnet.lab.training import experiment, signals
from convexnet.memory import CLASSNAMES, PREPARATION, recall
from tests.lab import small
from tests.lab.training.killed import streaming
from tests.processes import Forge

CLASSES = ("ant", "bee", "cow")


def draw(root: Path, count: int, *, vary: bool = False, ending: str = "jpg") -> Path:
    """Pictures in a folder for each class, which differ in their strongest colour."""
    draws = np.random.default_rng(7)
    for half, number in (("train", count), ("val", 4)):
        for colour, name in enumerate(CLASSES):
            (root / half / name).mkdir(parents=True)
            for k in range(number):
                size = draws.integers(9, 20, 2) if vary else (12, 10)
                pixels = draws.integers(0, 120, (*size, 3), dtype=np.uint8)
                pixels[..., colour] += 100
                Image.fromarray(pixels).save(root / half / name / f"{k}.{ending}")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures a class of 12 x 10 to train on, without loss, and 4 to test on."""
    return draw(tmp_path_factory.mktemp("pictures"), 20, ending="png")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as JPEG, in many sizes."""
    return draw(tmp_path_factory.mktemp("photographs"), 20, vary=True)


def given(part: Any, seed: int | None, augment: str = "none", **more: Any) -> list[tuple[Tensor, Tensor]]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return list(batches(part, 16, generator=generator, augment=augmentation(augment), **more))


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_streamed_is_what_it_is_in_memory(augment: str, pictures: Path) -> None:
    held = load(f"folder:{pictures}", noise=40)
    streamed = load(f"folder:{pictures}", noise=40, pictures=Pictures(streamed=True))
    assert isinstance(streamed.train, Streamed)
    assert streamed.shape == held.shape == (3, 12, 10)
    assert streamed.classnames == CLASSES
    for name in ("train", "validation", "test"):
        assert same(given(getattr(held, name), None), given(getattr(streamed, name), None))
    if augment == "none":
        assert same(given(held.train, 3), given(streamed.train, 3))
    else:  # every image draws for itself, so that what it becomes does not depend on its batch
        assert not same(given(held.train, 3, augment), given(streamed.train, 3, augment))
    assert torch.equal(held.train.clean, streamed.train.clean)
    assert torch.equal(held.train.labels, streamed.train.labels)


def test_neither_workers_nor_where_it_begins_change_a_bit(photographs: Path) -> None:
    def read(workers: int, seed: int = 5, augment: str = "resized-crop-flip", **more: Any) -> Any:
        data = load(f"folder:{photographs}", pictures=Pictures(8, True, workers))
        before = torch.get_rng_state()
        found = given(data.train, seed, augment, **more)
        assert torch.equal(torch.get_rng_state(), before), "nothing is drawn from the global generator"
        return found

    whole = read(0)
    policy = "resized-crop-flip-randaugment-erase"
    assert same(read(1, augment=policy, start=2), read(0, augment=policy)[2:])
    assert [tuple(images.shape) for images, _ in whole] == [(16, 3, 8, 8)] * 3 + [(6, 3, 8, 8)]
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in whole)
    assert same(read(2), whole)
    assert same(read(1, start=2), whole[2:])
    halves = [read(0, share=(k, 2)) for k in (0, 1)]
    for (images, labels), one, other in zip(whole, *halves, strict=True):
        assert torch.equal(images[0::2], one[0])
        assert torch.equal(images[1::2], other[0])
        assert torch.equal(labels[1::2], other[1])
    assert not same(read(0, seed=6), whole)
    assert not torch.equal(whole[0][0], given(load_streamed(photographs).train, 5)[0][0]), "they are augmented"


def load_streamed(root: Path, **more: Any) -> Any:
    return load(f"folder:{root}", pictures=Pictures(8, True, 0), **more)


def test_the_whole_picture_is_cropped(tmp_path: Path) -> None:
    """A window is cut from the file's picture, and not from what was cut out of its middle before."""
    for k in range(10):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:4] = 255  # beyond the middle that is cut out
        (tmp_path / "train" / f"c{k % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "train" / f"c{k % 2}" / f"{k}.png")
    data = load(f"folder:{tmp_path}", validation=0, pictures=Pictures(8, True, 0))
    seen = [torch.cat([x for x, _ in given(data.train, seed, "resized-crop-flip")]).amax() for seed in range(3)]
    assert max(seen) > 0.9
    assert float(given(data.train, None)[0][0].amax()) < 0.9


def test_an_image_becomes_its_middle() -> None:
    image = torch.zeros(3, 64, 128, dtype=torch.uint8)
    image[:, :, 56:72] = 200
    small_one = centred(image, (28, 28))
    assert small_one.shape == (3, 28, 28)
    assert int(small_one[:, :, 14].min()) > 150
    assert int(small_one[:, :, 0].max()) == 0
    assert centred(image, (64, 128)) is image
    assert centred(image, (100, 20)).shape == (3, 100, 20)


def test_by_size(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(load(f"folder:{pictures}").train, Streamed)
    monkeypatch.setattr(user_images, "IN_MEMORY", 72 * 12 * 10 * 3 - 1)
    assert isinstance(load(f"folder:{pictures}").train, Streamed)
    assert not isinstance(load(f"folder:{pictures}", pictures=Pictures(streamed=False)).train, Streamed)
    assert not isinstance(load(f"folder:{pictures}", pictures=Pictures(8)).train, Streamed), "smaller ones fit"


def test_statistics_of_some(pictures: Path) -> None:
    data = load(f"folder:{pictures}", pictures=Pictures(streamed=True))
    held = load(f"folder:{pictures}")
    assert isinstance(data.train, Streamed)
    assert torch.equal(sampled(data.train, 10**6).images, held.train.images)
    few = sampled(data.train, 7)
    assert len(few) == 7
    assert torch.equal(few.images[-1], held.train.images[-1])


def test_names_in_one_block(tmp_path: Path) -> None:
    names = ["a", "", "ä/ö.png", "x" * 300, os.fsdecode(b"\xff.png")]
    packed = Paths(names)
    assert [str(packed[k]) for k in range(len(packed))] == [str(Path(name)) for name in names]


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(workers: int, tmp_path: Path) -> None:
    root = draw(tmp_path / "set", 10)
    data = load(f"folder:{root}", pictures=Pictures(12, True, workers))
    damaged = root / "train" / "bee" / "4.jpg"
    damaged.write_bytes(damaged.read_bytes()[:150])
    with pytest.raises(CorruptData, match=r"bee/4\.jpg cannot be read as an image"):
        given(data.train, 0)
    damaged.unlink()
    with pytest.raises(MissingData, match=r"no image .*bee/4\.jpg; it was moved or deleted"):
        given(data.train, 0)


@pytest.mark.parametrize("streamed", [True, False])
def test_an_unreadable_image_is_left_out_only_if_asked_for(
    streamed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = draw(tmp_path / "set", 6)
    (root / "train" / "bee" / "x.png").write_bytes(b"")
    (root / "val" / "cow" / "y.jpg").write_bytes((root / "val" / "cow" / "0.jpg").read_bytes()[:150])
    with pytest.raises(CorruptData, match=r"bee/x\.png cannot be read .* --skip-unreadable"):
        given(load(f"folder:{root}", validation=0, pictures=Pictures(12, streamed)).train, 0)
    data = load(f"folder:{root}", validation=0, pictures=Pictures(12, streamed, skip=True))
    assert (len(data.train), len(data.test)) == (18, 12)
    assert len(torch.cat([labels for _, labels in given(data.train, 0)])) == 18
    assert data.note.startswith("2 of 32 images could not be read and were left out, such as ")
    assert [record.message.partition(" cannot")[0][-5:] for record in caplog.records] == ["x.png", "y.jpg"]
    for file in (root / "val" / "ant").iterdir():
        file.write_bytes(b"")
    with pytest.raises(MissingData, match="no image of the class 'ant' can be read"):
        load(f"folder:{root}", pictures=Pictures(12, streamed, skip=True))
    with pytest.raises(ValueError, match="--skip-unreadable is of folder:PATH"):
        load("digits", pictures=Pictures(skip=True))


def test_classes_that_a_part_lacks(tmp_path: Path) -> None:
    root = draw(tmp_path / "set", 2)
    for file in (root / "val" / "bee").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(MissingData, match=r"val/bee has no images of its own.*\.jpg.*convert others"):
        load(f"folder:{root}")
    for file in (root / "val" / "bee").iterdir():
        file.unlink()
    (root / "val" / "bee").rmdir()
    with pytest.raises(DataError, match=r"bee is in one of them only.*as .*/val/bee would be"):
        load(f"folder:{root}")


def test_pictures_of_other_kinds_become_rgb(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), (204, 102, 0), np.uint8)
    for mode, ending in (("CMYK", "jpg"), ("LA", "png"), ("1", "png"), ("P", "png"), ("RGBA", "webp")):
        path = tmp_path / f"{mode}.{ending}"
        extra = {"transparency": bytes(10)} if mode == "P" else {}
        Image.fromarray(pixels).convert(mode).save(path, **extra)
        found = pixels_of(path)
        assert (found.shape, found.dtype) == ((8, 8, 3), np.uint8)
        if mode in ("CMYK", "P", "RGBA"):
            assert np.abs(found.astype(int) - pixels).max() < 16
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(CorruptData, match="convert it to 8 bits a colour"):
        pixels_of(tmp_path / "deep.png")


def test_a_set_of_folders_is_found_by_its_name(tmp_path: Path) -> None:
    draw(tmp_path / "tiny-imagenet-20", 4)
    held = load("tiny-imagenet-20", tmp_path)
    assert held.shape == (3, 64, 64)
    assert held.fingerprint
    assert not streams("tiny-imagenet-20", Pictures())
    assert streams("imagenet", Pictures())
    assert isinstance(load("tiny-imagenet-20", tmp_path, pictures=Pictures(8, True)).train, Streamed)
    with pytest.raises(MissingData, match="--data-dir"):
        load("imagenet")
    with pytest.raises(MissingData, match=r"there is no folder .*imagenet"):
        load("imagenet", tmp_path)


def test_sizes_that_differ(photographs: Path) -> None:
    for streamed in (None, True, False):
        with pytest.raises(DataError, match=r"one size: .* .--image-size 224"):
            load(f"folder:{photographs}", pictures=Pictures(streamed=streamed))
    assert load(f"folder:{photographs}", pictures=Pictures(9, False)).shape == (3, 9, 9)
    with pytest.raises(ValueError, match="--stream and --image-size are of folder:PATH"):
        load("digits", pictures=Pictures(9))


def test_turned_pictures_have_the_size_that_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert size_of(tmp_path / "turned.jpg") == (30, 20)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)


def weights(folder: Path) -> dict[str, Tensor]:
    return cx.load(folder / "network.safetensors").state_dict()


def equal(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that was never stopped, without workers, and its record."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "HIDDEN", small.HIDDEN)
        row = run(streaming(str(photographs)), small.place(folder, network=True))
    return folder, json.loads(json.dumps(row))


def test_killed_and_resumed(
    whole: tuple[Path, dict[str, Any]], photographs: Path, tmp_path: Path, seed: int, forge: Forge
) -> None:
    done = forge.run(
        "tests.lab.training.killed:stream", str(tmp_path / "parts"), str(photographs), str(seed), folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    left = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]  # epochs, and batches of the next one
    assert left[0] in ((1, 1), (1, 2)), "the first kill is in the midst of an epoch"
    resumed = json.loads((tmp_path / "parts" / "row.json").read_text(encoding="utf-8"))
    assert resumed["resumed_after"]
    assert small.same(resumed) == small.same(whole[1])
    assert equal(whole[0], tmp_path / "parts")


def test_told_to_end_in_the_midst_of_an_epoch(
    narrow: None,
    whole: tuple[Path, dict[str, Any]],
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    job = streaming(str(photographs))
    monkeypatch.setattr(experiment, "SLICE", 0.0)
    original = experiment.Training.after

    def after(training: experiment.Training) -> None:
        if training.steps == 4:  # the second epoch has begun
            os.kill(os.getpid(), signal.SIGTERM)
        original(training)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))
    monkeypatch.setattr(experiment.Training, "after", after)
    with pytest.raises(signals.Stopped):
        run(job, small.place(tmp_path, checkpoint_seconds=1e9, workers=1))
    monkeypatch.setattr(experiment.Training, "after", original)
    resumed = run(job, small.place(tmp_path, network=True, workers=2))
    assert resumed["resumed_after"] == [1]
    assert small.same(json.loads(json.dumps(resumed))) == small.same(whole[1])
    assert equal(whole[0], tmp_path)


@pytest.mark.slow
def test_killed_thirty_times(narrow: None, photographs: Path, tmp_path: Path, seed: int, forge: Forge) -> None:
    words = (str(tmp_path / "parts"), str(photographs), str(seed), "30")
    done = forge.run("tests.lab.training.killed:stream_at_any_time", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 5
    job = streaming(str(photographs))
    row = run(replace(job, recipe=replace(job.recipe, epochs=60)), small.place(tmp_path / "whole", network=True))
    resumed = json.loads((tmp_path / "parts" / "row.json").read_text(encoding="utf-8"))
    assert small.same(resumed) == small.same(json.loads(json.dumps(row)))
    assert equal(tmp_path / "whole", tmp_path / "parts")


def test_a_worker_that_is_killed_is_a_sentence(photographs: Path, tmp_path: Path, forge: Forge) -> None:
    done = forge.run("tests.lab.data.dead_worker:main", str(photographs), str(tmp_path / "runs"), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_epoch_is_read_once(
    narrow: None, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short an advance is: what was decoded ahead is not decoded again."""
    monkeypatch.setattr(experiment, "SLICE", 0.0)
    original, reads = Streamed.read, 0

    def read(part: Streamed, places: Any, augment: Any = (), seeds: Any = None, share: Any = (0, 1)) -> Any:
        nonlocal reads
        reads += seeds is not None
        return original(part, places, augment, seeds, share)

    monkeypatch.setattr(Streamed, "read", read)
    job = streaming(str(photographs))
    run(replace(job, recipe=replace(job.recipe, epochs=2)), small.place(tmp_path))
    assert reads == 2


def test_the_network_knows_its_classes_and_how_to_show_it_a_photograph(
    whole: tuple[Path, dict[str, Any]], photographs: Path
) -> None:
    folder, row = whole
    network = network_of(folder / "network.safetensors")
    assert recall(network, CLASSNAMES) == list(CLASSES)
    assert recall(network, PREPARATION) == "centred"
    assert "decoded as they were needed, 8 x 8" in row["note"]
    assert (row["test_samples"], row["train_samples"], row["validation_samples"]) == (12, 54, 6)
    found = predictions(network, [photographs / "val" / name for name in CLASSES], top=1)
    right = [one.path.parent.name == one.classes[0] for one in found]
    assert np.mean(right) == pytest.approx(row["test_accuracy"], abs=1e-9)
    assert "its middle" in found[0].note


def test_whitening_is_refused_before_a_bar_is_drawn(photographs: Path, tmp_path: Path) -> None:
    words = ["train", "--dataset", f"folder:{photographs}", "--image-size", "8", "--stream", "--convex"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "--normalise mean-std" in done.stderr
    assert "0/1000" not in done.output


def test_slices_of_an_iterator_take_no_more_than_they_give() -> None:
    """What `Training` relies on: the batch after the last one is not asked for, and draws nothing."""
    made = iter(range(5))
    assert list(islice(made, 2)) == [0, 1]
    assert next(made) == 2

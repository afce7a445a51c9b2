"""Splits, wrong labels, the demo's digits and the toy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convexnet.lab import data
from convexnet.lab.data.load import carve
from convexnet.lab.data.noise import generator_for, resampled
from convexnet.lab.runs.run import normalised
from tests.lab import small


@given(
    fraction=st.floats(0, 1),
    count=st.integers(1, 200),
    classes=st.integers(2, 10),
    seed=st.integers(0, 2**31),
)
def test_exactly_the_asked_fraction_is_wrong(fraction: float, count: int, classes: int, seed: int) -> None:
    labels = torch.arange(count) % classes
    before = labels.clone()
    noisy = data.wrong_labels(labels, fraction, classes, seed)
    assert int((noisy != labels).sum()) == round(fraction * count)
    assert int(noisy.min()) >= 0
    assert int(noisy.max()) < classes
    assert torch.equal(labels, before)
    assert torch.equal(noisy, data.wrong_labels(labels, fraction, classes, seed))


def test_another_seed_makes_other_labels_wrong() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    assert not torch.equal(data.wrong_labels(labels, 0.4, 10, 0), data.wrong_labels(labels, 0.4, 10, 1))


def test_wrong_labels_are_spread_over_the_other_classes(seed: int) -> None:
    noisy = data.wrong_labels(torch.zeros(9000, dtype=torch.int64), 1.0, 10, seed)
    counts = torch.bincount(noisy, minlength=10)
    assert counts[0] == 0
    # 1000 expected each; six standard deviations.
    assert int((counts[1:] - 1000).abs().max()) < 180


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_zero_and_one_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        data.wrong_labels(torch.zeros(3, dtype=torch.int64), fraction, 10, 0)


def test_a_single_class_has_no_wrong_label() -> None:
    with pytest.raises(ValueError, match="two classes"):
        data.wrong_labels(torch.zeros(3, dtype=torch.int64), 0.5, 1, 0)


def test_scaling_looks_at_the_training_part_only() -> None:
    scaled, _ = normalised(data.load("digits"), small.job(normalise="standard"))
    assert isinstance(scaled.train, data.Split)
    assert isinstance(scaled.test, data.Split)
    assert float(scaled.train.images.mean(0).abs().max()) < 1e-5
    assert float(scaled.test.images.mean(0).abs().max()) > 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_no_convex_set_separates_the_crescents(seed: int) -> None:
    from scipy.spatial import ConvexHull

    toy = data.crescents(600, seed)
    assert toy.labels.bincount().tolist() == [300, 300]
    for label in (0, 1):
        hull = ConvexHull(toy.inputs[toy.labels == label].double().numpy())
        other = toy.inputs[toy.labels != label].double().numpy()
        inside = (other @ hull.equations[:, :2].T + hull.equations[:, 2] <= 0).all(axis=1)
        assert inside.sum() > 10


# --- load ------------------------------------------------------------------------------------------------------------


def numbers(split: data.Split) -> list[bytes]:
    return [image.tobytes() for image in split.images.numpy()]


def test_parts_do_not_overlap_and_the_test_part_never_changes() -> None:
    first, again, other = (data.load("digits", seed=seed) for seed in (3, 3, 4))
    parts = [first.train, first.validation, first.test]
    # Not one of the 1797 images occurs twice, even at 17 grey levels.
    assert len({image for part in parts for image in numbers(part)}) == 1797
    assert numbers(first.train) == numbers(again.train)
    assert numbers(first.test) == numbers(other.test)
    assert set(numbers(first.validation)) != set(numbers(other.validation))


def test_the_embedded_digits_are_scikit_learn_s() -> None:
    """Grey levels k of 16 are stored as bytes near 255 k / 16; labels go with their images."""
    whole = data.load("digits", validation=0)
    stored = {tuple(image.flatten().tolist()): int(label) for image, label in pairs(whole.train, whole.test)}
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    assert len(stored) == len(labels) == 1797
    for row, label in zip(grey, labels, strict=True):
        assert stored[tuple(round(float(value) * 255 / 16) for value in row)] == label


def pairs(*splits: data.Split) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [pair for split in splits for pair in zip(split.images, split.labels, strict=True)]


@given(
    count=st.integers(1, 300),
    validation=st.floats(0, 0.99),
    seed=st.integers(-5, 2**40),
    share=st.floats(0, 1),
)
def test_carving_is_a_partition(count: int, validation: float, seed: int, share: float) -> None:
    try:
        train, held = carve(count, validation, None, seed)
    except ValueError:
        size = int(count * validation + 0.5)
        assert size == count or (validation > 0 and size == 0)
        return
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(count))
    assert len(held) == int(count * validation + 0.5)
    assert train.tolist() == sorted(train.tolist())
    few = max(1, int(share * len(train)))
    fewer, same = carve(count, validation, few, seed)
    assert len(fewer) == few
    assert set(fewer.tolist()) <= set(train.tolist())
    assert same.tolist() == held.tolist()


@pytest.mark.parametrize(("kind", "hits"), [("symmetric-including", 0.1), ("symmetric-excluding", 0.0)])
@pytest.mark.parametrize("percent", [0, 37.5, 100])
def test_noise_is_in_the_training_part_alone_and_counted(kind: str, hits: float, percent: float) -> None:
    found = data.load("digits", noise=percent, noise_kind=kind, seed=1)
    clean = data.load("digits", seed=1)
    # Carving does not depend on the noise.
    assert numbers(found.train) == numbers(clean.train)
    assert torch.equal(found.train.clean, clean.train.labels)
    for part in (found.validation, found.test):
        assert part.true_fraction == 1
    expected = 1 - round(percent / 100 * len(found.train)) / len(found.train) * (1 - hits)
    # 1212 labels are drawn anew at most; five standard deviations of those that come out true.
    assert found.true_fraction == pytest.approx(expected, abs=5 * (0.09 / 1212) ** 0.5 if hits else 1e-12)
    assert found.noise == (f"{kind} {percent:g} %" if percent else "")
    assert clean.true_fraction == 1


@given(fraction=st.floats(0, 1), count=st.integers(1, 200), classes=st.integers(2, 10), seed=st.integers(0, 2**31))
def test_resampling_touches_no_more_than_it_says(fraction: float, count: int, classes: int, seed: int) -> None:
    labels = torch.arange(count) % classes
    drawn = resampled(labels, fraction, classes, seed)
    assert int((drawn != labels).sum()) <= round(fraction * count)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < classes
    assert torch.equal(labels, torch.arange(count) % classes)


def test_resampling_hits_every_class_alike(seed: int) -> None:
    counts = torch.bincount(resampled(torch.zeros(10_000, dtype=torch.int64), 1.0, 10, seed), minlength=10)
    # 1000 expected each; six standard deviations.
    assert int((counts - 1000).abs().max()) < 180


def test_seeds_of_different_purposes_are_unrelated() -> None:
    """The same seed for the order and for the noise would relabel just those rows that come first in the order."""
    orders = [torch.randperm(1000, generator=generator_for(0, purpose)) for purpose in ("split", "noise")]
    together = len(set(orders[0][:500].tolist()) & set(orders[1][:500].tolist()))
    assert 180 < together < 320  # 250 expected; negative control: 500 where the seeds are the same


def test_which_labels_are_wrong_depends_on_the_seed_and_not_on_the_split() -> None:
    options = {"validation": 0, "noise": 50, "noise_kind": "symmetric-excluding"}
    first, second = (data.load("digits", seed=seed, **options) for seed in (0, 1))  # type: ignore[arg-type]
    wrong = [set((part.train.labels != part.train.clean).nonzero()[:, 0].tolist()) for part in (first, second)]
    early = set(carve(1347, 0.0, 674, seed=0)[0].tolist())
    # Of 674 rows, 337 are in two unrelated halves; five standard deviations of 9.2.
    for other in (wrong[1], early):
        assert abs(len(wrong[0] & other) - 337) < 46


def test_loading_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    data.load("digits", noise=40)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -1}, "from 0 to 100"),
        ({"noise": 100.5}, "from 0 to 100"),
        ({"noise": float("nan")}, "from 0 to 100"),
        ({"noise_kind": "symetric-including"}, "Did you mean 'symmetric-including'"),
        ({"validation": 1.0}, "share of the training part"),
        ({"validation": -0.1}, "share of the training part"),
        ({"validation": 0.0001}, "which is none"),
        ({"validation": 0.9999}, "nothing is left"),
        ({"train_samples": 0}, "at least 1"),
        ({"train_samples": 5000}, "1212 images to train on"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load("digits", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar-10", "Did you mean 'cifar10'"),
        ("MNIST", "Did you mean 'mnist'"),
        ("fasion-mnist", "Did you mean 'fashion-mnist'"),
        ("", "unknown data set ''"),
        ("folder:", "needs a path after the colon"),
        ("zip:here", "unknown data set 'zip:here'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(name, ".")


# --- parts -----------------------------------------------------------------------------------------------------------


def test_a_part_whose_labels_do_not_fit() -> None:
    images = torch.zeros(3, 2)
    for labels in (torch.zeros(2, dtype=torch.int64), torch.zeros(2), torch.zeros(3, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="labels must be int64"):
            data.Split(images, labels)
    assert data.Split(images, torch.zeros(3, 4)).labels.shape == (3, 4)  # targets of a regression
    with pytest.raises(ValueError, match="bytes"):
        data.Split(images.int(), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="clean labels must be int64"):
        data.Split(images, torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))


def test_rows_keep_images_and_both_labels_together() -> None:
    part = data.Split(torch.arange(5)[:, None].byte(), torch.arange(5), torch.arange(5) + 10)
    chosen = part.rows(torch.tensor([4, 0, 4]))
    assert chosen.images.flatten().tolist() == chosen.labels.tolist() == [4, 0, 4]
    assert chosen.clean.tolist() == [14, 10, 14]
    assert part.relabelled(torch.arange(5) + 10).true_fraction == 1
    assert part.true_fraction == 0

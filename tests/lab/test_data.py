"""Splits, wrong labels and the toy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convexnet.lab import data


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


def test_the_digits_are_split_without_overlap_and_by_class() -> None:
    parts = data.digits(3)
    sizes = [len(parts.train), len(parts.validation), len(parts.test)]
    assert sizes == [1100, 247, 450]
    # Not one of the 1797 images occurs twice, so equal rows in two parts would mean a leak.
    everything = torch.cat([parts.train.inputs, parts.validation.inputs, parts.test.inputs])
    assert len(torch.unique(everything, dim=0)) == sum(sizes)
    for part in (parts.train, parts.validation, parts.test):
        shares = torch.bincount(part.labels, minlength=10) / len(part)
        assert float((shares - 0.1).abs().max()) < 0.01
    assert torch.equal(parts.test.inputs, data.digits(3).test.inputs)
    assert not torch.equal(parts.test.labels, data.digits(4).test.labels)


def test_scaling_looks_at_the_training_part_only() -> None:
    parts = data.digits(0)
    assert float(parts.train.inputs.mean(0).abs().max()) < 1e-5
    assert float(parts.test.inputs.mean(0).abs().max()) > 1e-3


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

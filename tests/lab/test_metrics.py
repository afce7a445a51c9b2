"""Metrics against cases small enough to work out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from convexnet.lab import metrics


def logits(*probabilities: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_accuracy_counts_the_largest_output() -> None:
    outputs = torch.tensor([[3.0, 1.0], [0.0, 2.0], [5.0, 4.0], [1.0, 0.0]])
    assert metrics.accuracy(outputs, torch.tensor([0, 1, 1, 0])) == 0.75


def test_memorised_looks_at_wrong_labels_only() -> None:
    outputs = torch.eye(3)[[0, 1, 2, 0]]
    true = torch.tensor([0, 1, 0, 1])
    # Samples 2 and 3 carry a wrong label; the network gives back that of sample 2 only.
    used = torch.tensor([0, 1, 2, 2])
    assert metrics.memorised(outputs, used, true) == 0.5
    assert metrics.memorised(outputs, true, true) is None


def test_calibration_error_of_three_samples() -> None:
    # Confidences 0.6, 0.6, 0.9 with 15 bins: the first two share a bin. |0.5 - 0.6| * 2/3 + |1 - 0.9| * 1/3 = 0.1.
    outputs = logits((0.6, 0.4), (0.4, 0.6), (0.1, 0.9))
    found = metrics.calibration(outputs, torch.tensor([0, 0, 1]))
    assert found["ece"] == pytest.approx(0.1)
    # Unweighted: 0.1 from either bar.
    assert found["ece_bar_sum"] == pytest.approx(0.2)
    assert found["nll"] == pytest.approx(-(math.log(0.6) + math.log(0.4) + math.log(0.9)) / 3)
    # Sums of squares over both classes: 2 * 0.16, 2 * 0.36, 2 * 0.01.
    assert found["brier"] == pytest.approx((0.32 + 0.72 + 0.02) / 3)


def test_reliability_bins() -> None:
    bars = metrics.reliability(logits((0.6, 0.4), (0.4, 0.6), (0.1, 0.9)), torch.tensor([0, 0, 1]))
    assert len(bars) == 15
    assert [bar.count for bar in bars if bar.count] == [2, 1]
    first, second = (bar for bar in bars if bar.count)
    assert (first.confidence, first.accuracy) == (pytest.approx(0.6), 0.5)
    assert (second.confidence, second.accuracy) == (pytest.approx(0.9), 1.0)


def test_full_confidence_falls_into_the_last_bin() -> None:
    bars = metrics.reliability(torch.tensor([[1e4, 0.0]]), torch.tensor([0]))
    assert bars[-1] == metrics.Reliability(1, 1.0, 1.0)


def test_weighted_bars_agree_with_torchmetrics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(500, 4, generator=generator)
    labels = torch.randint(4, (500,), generator=generator)
    bars = metrics.reliability(outputs, labels)
    ours = sum(bar.count * abs(bar.accuracy - bar.confidence) for bar in bars) / 500
    assert metrics.calibration(outputs, labels)["ece"] == pytest.approx(ours, abs=1e-6)


def test_adaptive_error_uses_bins_of_equal_size() -> None:
    outputs = logits((0.6, 0.4), (0.7, 0.3), (0.8, 0.2), (0.9, 0.1))
    # Two bins of two: |0.65 - 1| and |0.85 - 0.5|, half the samples each.
    assert metrics.adaptive_calibration_error(outputs, torch.tensor([0, 0, 0, 1]), bins=2) == pytest.approx(0.35)


def test_standard_error_of_a_difference() -> None:
    assert metrics.standard_error(0.5, 0.5, 100) == pytest.approx(math.sqrt(0.005))
    assert metrics.standard_error(1.0, 0.0, 100) == 0.0

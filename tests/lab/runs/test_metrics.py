"""Metrics against cases small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convexnet.lab.runs import metrics


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


def expected_error(outputs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The definition, sample by sample (Guo et al. 2017, equation 3), in numpy: bin k holds k/15 <= p < (k + 1)/15, and
    the last one p = 1 too."""
    logits = outputs.double().numpy()
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    confidence, right = shares.max(1), shares.argmax(1) == labels.numpy()
    total = 0.0
    for k in range(bins):
        here = [i for i, p in enumerate(confidence) if k <= p * bins < k + 1 or (k == bins - 1 and p == 1.0)]
        if here:
            total += len(here) * abs(float(np.mean(confidence[here])) - float(np.mean(right[here])))
    return total / len(labels)


def test_calibration_error_agrees_with_its_definition(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (500,), generator=generator)
    for size in (0.1, 2.0, 30.0, 1000.0):  # the last ones are sure of most samples, in full
        outputs = size * torch.randn(500, 4, generator=generator)
        assert metrics.calibration(outputs, labels)["ece"] == pytest.approx(expected_error(outputs, labels), abs=1e-9)


def test_full_confidence_shares_a_bin_with_what_is_almost_sure() -> None:
    """A thousand samples of confidence 1 of which 95 % are right, a thousand of confidence .95 which all are."""
    outputs = torch.zeros(2000, 2)
    outputs[:1000, 0] = 40.0
    outputs[1000:, 0] = math.log(0.95 / 0.05)
    labels = torch.zeros(2000, dtype=torch.int64)
    labels[:50] = 1
    assert metrics.calibration(outputs, labels)["ece"] == pytest.approx(0.0, abs=1e-6)


def test_adaptive_error_uses_bins_of_equal_size() -> None:
    outputs = logits((0.6, 0.4), (0.7, 0.3), (0.8, 0.2), (0.9, 0.1))
    # Two bins of two: |0.65 - 1| and |0.85 - 0.5|, half the samples each.
    assert metrics.adaptive_calibration_error(outputs, torch.tensor([0, 0, 0, 1]), bins=2) == pytest.approx(0.35)


def test_standard_error_of_a_difference() -> None:
    assert metrics.standard_error(0.5, 0.5, 100) == pytest.approx(math.sqrt(0.005))
    assert metrics.standard_error(1.0, 0.0, 100) == 0.0


# --- one output, and what cannot be measured -------------------------------------------------------------------------


def test_one_output_is_the_same_classifier_as_two(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    single = 2 * torch.randn(300, 1, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, (300,), generator=generator)
    double = torch.cat([-single / 2, single / 2], dim=1)
    assert metrics.accuracy(single, labels) == metrics.accuracy(double, labels)
    assert metrics.calibration(single, labels) == pytest.approx(metrics.calibration(double, labels))
    # Its negative log-likelihood is the logistic loss.
    loss = torch.nn.functional.binary_cross_entropy_with_logits(single[:, 0], labels.double())
    assert metrics.calibration(single, labels)["nll"] == pytest.approx(float(loss))
    assert metrics.reliability(single, labels) == metrics.reliability(double, labels)


def test_four_accuracies_are_told_apart() -> None:
    # The network says 0, 1, 1, 0 in training; it was shown 0, 1, 1, 1; all are 0 in truth.
    train = torch.eye(2)[[0, 1, 1, 0]]
    used, clean = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 0, 0])
    test, test_labels = torch.eye(2)[[0, 0]], torch.tensor([0, 1])
    found = metrics.accuracies(train, used, clean, test, test_labels, running=0.1)
    assert found == {
        "train_accuracy": 0.75,
        "clean_train_accuracy": 0.5,
        "running_accuracy": 0.1,
        "test_accuracy": 0.5,
        "gap": 0.25,
        "memorised_wrong_labels": pytest.approx(2 / 3),
    }


def test_accuracy_is_exact_for_many_rows() -> None:
    count = 2**24 + 1  # beyond what a float32 mean can count
    labels = torch.zeros(count, dtype=torch.int64)
    labels[0] = 1
    assert metrics.accuracy(torch.tensor([[1.0, 0.0]]).expand(count, -1), labels) == (count - 1) / count


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [(torch.zeros(0, 3), torch.zeros(0)), (torch.zeros(4, 3), torch.zeros(3)), (torch.zeros(4), torch.zeros(4))],
)
def test_outputs_and_labels_must_belong_together(outputs: torch.Tensor, labels: torch.Tensor) -> None:
    for measure in (metrics.accuracy, metrics.calibration):
        with pytest.raises(ValueError, match=r"outputs \(N, K\)"):
            measure(outputs, labels.long())


def test_outputs_that_are_not_finite_have_no_calibration() -> None:
    outputs = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [0.0, float("inf")]])
    with pytest.raises(ValueError, match="2 of 3 rows"):
        metrics.calibration(outputs, torch.tensor([0, 1, 1]))


def test_calibration_of_a_network_that_knows_its_probabilities(seed: int) -> None:
    """Labels drawn from the probabilities themselves: errors are what sampling leaves; sharpened logits are far off."""
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(20_000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(outputs.softmax(1), 1, generator=generator)[:, 0]
    honest, sharp = metrics.calibration(outputs, labels), metrics.calibration(3 * outputs, labels)
    assert honest["ece"] < 0.02
    assert honest["ece_adaptive"] < 0.02
    assert sharp["ece"] > 0.1
    assert sharp["ece_adaptive"] > 0.1
    assert honest["nll"] < sharp["nll"]
    assert honest["brier"] < sharp["brier"]


def test_correlations_of_layers_by_hand() -> None:
    """One layer has a unit and its mirror image, the next one only the bias of a dead unit."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    first.weight.data = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    found = metrics.correlations(nn.Sequential(first, second), torch.randn(64, 2))
    assert found["0"] == pytest.approx(-1.0, abs=1e-6)
    assert found["1"] is None

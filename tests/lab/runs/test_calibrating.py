"""Temperature scaling and the error of perfect calibration, against minima and draws that are found otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import convexnet as cx
from convexnet.lab.runs import calibrating, metrics
from convexnet.lab.runs.calibrating import Divided, perfect, temperature


def answers(seed: int, count: int = 400, classes: int = 4, factor: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits that are `factor` times too sure, and labels that follow the honest ones."""
    generator = torch.Generator().manual_seed(seed)
    honest = 1.5 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    return factor * honest, labels


@pytest.mark.parametrize("factor", [0.2, 3.0])
def test_the_temperature_is_the_minimum(factor: float, seed: int) -> None:
    outputs, labels = answers(seed, factor=factor)
    found = temperature(outputs, labels)
    grid = [found * ratio for ratio in (0.5, 0.9, 0.999, 1.0, 1.001, 1.1, 2.0)]
    losses = [float(functional.cross_entropy(outputs.double() / t, labels)) for t in grid]
    assert min(losses) == losses[3]
    assert 0.5 * factor < found < 2 * factor
    before, after = (metrics.calibration(outputs / t, labels)["nll"] for t in (1.0, found))
    assert after < before


def test_a_minimum_beyond_the_range_is_its_end() -> None:
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert temperature(sure, torch.tensor([0, 1])) == calibrating.SHARPEST
    assert temperature(sure, torch.tensor([1, 0])) == calibrating.FLATTEST
    assert temperature(torch.zeros(3, 2), torch.tensor([0, 1, 0])) == calibrating.FLATTEST, "no temperature matters"


def test_a_single_output_is_two(seed: int) -> None:
    outputs = torch.randn(50, 1, generator=torch.Generator().manual_seed(seed))
    labels = (outputs[:, 0] + torch.randn(50, generator=torch.Generator().manual_seed(seed + 1)) > 0).long()
    two = torch.cat([torch.zeros_like(outputs), outputs], 1)
    assert temperature(outputs, labels) == pytest.approx(temperature(two, labels))
    assert perfect(outputs) == perfect(two)


@pytest.mark.parametrize("count", [100, 2000])
def test_the_error_of_perfect_calibration(count: int, seed: int) -> None:
    """Against labels that are drawn from the whole softmax, and counted by numpy."""
    outputs, _ = answers(seed, count, factor=1.0)
    rng = np.random.default_rng(seed)
    probabilities = outputs.double().softmax(1).numpy()
    top, confidence = probabilities.argmax(1), probabilities.max(1)
    errors = []
    for _ in range(300):
        labels = (rng.random((count, 1)) > probabilities.cumsum(1)).sum(1)
        right = labels == top
        place = np.minimum((confidence * 15).astype(int), 14)
        errors.append(sum(abs((right[place == b] - confidence[place == b]).sum()) for b in range(15)) / count)
    assert perfect(outputs) == pytest.approx(np.mean(errors), rel=0.1)
    # It is below what overconfident outputs show with the same labels, and above 0.
    labels = torch.from_numpy((rng.random((count, 1)) > probabilities.cumsum(1)).sum(1))
    assert 0 < perfect(outputs) < metrics.calibration(3 * outputs, labels)["ece"]


def test_scaling_keeps_convexity() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    cx.constrain(network, torch.zeros(2, 3), method="clip")
    assert cx.certify(nn.Sequential(network, Divided(1.7)), torch.zeros(2, 3)).convex
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a number above 0"):
            Divided(wrong)
    # Negative control: the refused factor would turn it round.
    turned = nn.Sequential(network, nn.Linear(4, 4, bias=False))
    nn.init.eye_(turned[1].weight)
    turned[1].weight.data.mul_(-1)
    assert not cx.certify(turned, torch.zeros(2, 3)).convex

"""Temperature scaling, and the calibration error that a perfectly calibrated network would show on as many samples.

Divided by a temperature above 0, convex outputs stay convex, and every decision stays as it is.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.lab.data.noise import generator_for
from convexnet.lab.runs import metrics

DRAWS = 200
"""Times that labels are drawn, for the error of perfect calibration."""

SHARPEST, FLATTEST = 1e-3, 1e3
"""Between these a temperature is looked for."""


class Divided(nn.Module):
    """Outputs divided by a temperature above 0; a positive factor keeps what is convex.

    Example:
        >>> Divided(2.0)(torch.tensor([[2.0, 4.0]]))
        tensor([[1., 2.]])
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"a temperature is a number above 0, not {temperature}: a negative one would turn every decision"
            )
        self.temperature = temperature

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs / self.temperature


def temperature(outputs: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the mean negative log-likelihood of outputs (N, K) for labels (N,).

    In b = 1 / T that loss is convex; the root of its derivative is found by bisection, between temperatures of 0.001
    and 1000, one of which is returned where the root lies beyond it.

    Raises:
        ValueError: no rows, or other labels than rows.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017), section 4.2.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
        >>> right = torch.tensor([0, 0, 0, 1])  # sure of 88 %, right in 75 %
        >>> round(temperature(logits, right), 3)  # 2 / log(3)
        1.82
    """
    metrics.paired(outputs, labels)
    logits = metrics.two_or_more(outputs)
    chosen = logits.gather(1, labels[:, None])[:, 0]

    def slope(factor: float) -> float:
        expected = ((factor * logits).softmax(1) * logits).sum(1)
        return float((expected - chosen).mean())

    low, high = 1 / FLATTEST, 1 / SHARPEST
    if slope(low) >= 0:
        return FLATTEST
    if slope(high) <= 0:
        return SHARPEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low * high) ** -0.5


def perfect(outputs: Tensor) -> float:
    """The mean calibration error (15 bins) that outputs (N, K) would show if they were perfectly calibrated.

    The error of finitely many samples is above 0 whatever made them. Here each top label is right with the probability
    that it says, and the error is averaged over 200 draws; the same outputs always give the same number.

    Example:
        >>> few, many = torch.zeros(100, 2), torch.zeros(10_000, 2)
        >>> few[:, 0], many[:, 0] = 1.0, 1.0
        >>> perfect(few) > 5 * perfect(many)
        True
    """
    confidence, _ = metrics.top_label(outputs, torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device))
    confidence = confidence.cpu()
    place = (confidence * metrics.BINS).long().clamp(max=metrics.BINS - 1)
    generator = generator_for(0, "perfect calibration")
    total = 0.0
    for _ in range(DRAWS):
        right = torch.rand(len(confidence), generator=generator, dtype=torch.float64) < confidence
        differences = torch.zeros(metrics.BINS, dtype=torch.float64).index_add(0, place, right.double() - confidence)
        total += float(differences.abs().sum()) / len(confidence)
    return total / DRAWS


def scaled_columns(validation: tuple[Tensor, Tensor], test: Tensor, targets: Tensor) -> dict[str, Any]:
    """Columns of a record: the temperature that the validation part chose, and the calibration on the test part."""
    found = temperature(*validation)
    outputs = metrics.two_or_more(test) / found
    return {
        "temperature": found,
        **{f"{name}_scaled": value for name, value in metrics.calibration(outputs, targets).items()},
        "ece_perfect_scaled": perfect(outputs),
        "reliability_scaled": [list(astuple(bar)) for bar in metrics.reliability(outputs, targets)],
    }

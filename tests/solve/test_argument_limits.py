"""Arguments at the ends of what is taken: batches that a forward is not written for, bounds, slopes without end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx


class Pairs(nn.Module):
    """Takes two samples where two entries of every sample were meant."""

    def forward(self, c: Tensor, y: Tensor) -> Tensor:
        return (y - c)[[0, 1]].square().sum(1)


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_written_for_a_batch_of_two(batch: int) -> None:
    with pytest.raises(
        ValueError, match=rf"a batch of {batch}: index \(.*test_argument_limits.py:.*write y\[:, \[0, 1\]\]"
    ):
        cx.minimise(Pairs(), cx.Box(-1, 1, shape=(2,)), given=torch.zeros(batch, 2))


def test_bounds_beyond_the_numbers_of_a_type() -> None:
    class Distance(nn.Module):
        def forward(self, c: Tensor, y: Tensor) -> Tensor:
            return (y - c).abs().sum(1)

    box = cx.Box(1e299, 1e300, shape=(2,))
    with pytest.raises(ValueError, match=r"coordinate 0 of sample 0, 1e\+299 to 1e\+300, hold no number of float32"):
        cx.minimise(Distance(), box, given=torch.zeros(1, 2))
    found = cx.minimise(Distance(), box, given=torch.zeros(1, 2, dtype=torch.float64))
    assert float(found.x.min()) >= 1e299


def test_a_slope_without_end_at_a_single_bound_is_left() -> None:
    """y log y on y >= 0, whose slope is infinite where the search would begin, at the point nearest to 0."""

    class Entropy(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return (1.1 * y - torch.special.entr(y)).sum(1)

    found = cx.minimise(Entropy(), cx.Box(0, float("inf"), shape=(2,)))
    assert found.x.flatten().tolist() == pytest.approx([math.exp(-2.1)] * 2, rel=1e-2)
    assert float(found.value.detach()) == pytest.approx(-2 * math.exp(-2.1), rel=1e-5)

"""Boxes: fixed coordinates, batches of boxes, and the gradients that flow through them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import convexnet as cx

NAN = float("nan")


@given(
    shape=st.sampled_from([(), (3,), (2, 3)]),
    batches=st.tuples(st.sampled_from([None, 1, 4]), st.sampled_from([None, 1, 4])),
    number=st.integers(0, 2**31),
)
def test_fixed_elements_are_points_and_the_others_are_as_before(
    shape: tuple[int, ...], batches: tuple[int | None, int | None], number: int
) -> None:
    generator = torch.Generator().manual_seed(number)

    def uniform(batch: int | None) -> Tensor:
        lead = () if batch is None else (batch,)
        return torch.rand((*lead, *shape), generator=generator, dtype=torch.float64)

    box = cx.Box(-1 - uniform(None), 1 + uniform(None), shape)
    values, mask = uniform(batches[0]), uniform(batches[1]) < 0.5
    if values.shape == mask.shape:
        values[~mask] = NAN  # not read there
    fixed = box.fix(values, mask)
    rows = max((batch for batch in batches if batch is not None), default=None)
    assert fixed.batch == rows
    assert fixed.shape == box.shape == torch.Size(shape)
    full = (*(() if rows is None else (rows,)), *shape)
    where, given_values = mask.expand(full), values.expand(full)
    for end, before in ((fixed.lo, box.lo), (fixed.hi, box.hi)):
        assert end.shape == torch.Size(full)
        assert torch.equal(end[where], given_values[where])
        assert torch.equal(end[~where], before.expand(full)[~where])
    again = fixed.fix(values, mask)
    assert torch.equal(again.lo, fixed.lo)
    assert torch.equal(again.hi, fixed.hi)
    points = 4 * uniform(5) - 2 if rows is None else 4 * uniform(rows) - 2
    inside = fixed.project(points)
    assert bool(fixed.contains(inside).all())
    assert torch.equal(fixed.project(inside), inside)
    assert bool(fixed.hull().contains(inside).all())
    moved = (inside + 1e-9 * where) if rows is not None else inside + 1e-9 * where.expand_as(inside)
    assert fixed.contains(moved).tolist() == (~where.expand_as(inside).reshape(len(inside), -1).any(1)).tolist()


def test_masks_of_a_batch_of_their_own() -> None:
    box = cx.Box(0, 1, shape=(2,)).fix(0.25, torch.tensor([[True, False], [False, True]]))
    assert box.batch == 2
    assert box.lo.tolist() == [[0.25, 0.0], [0.0, 0.25]]
    assert box.hi.tolist() == [[0.25, 1.0], [1.0, 0.25]]
    both = box.fix([[0.25, 0.5], [0.75, 0.25]], True)
    assert both.lo.tolist() == both.hi.tolist() == [[0.25, 0.5], [0.75, 0.25]]
    nothing = cx.Box(0, 1, shape=(2,)).fix(NAN, False)
    assert nothing.batch is None
    assert (nothing.lo.tolist(), nothing.hi.tolist()) == ([0.0, 0.0], [1.0, 1.0])


def test_sides_without_an_end_can_be_fixed() -> None:
    box = cx.Box(-torch.inf, torch.inf, shape=(2,)).fix([3.0, 0.0], [True, False])
    assert (box.lo.tolist(), box.hi.tolist()) == ([3.0, -torch.inf], [3.0, torch.inf])


def test_gradients_flow_to_values_and_bounds_where_they_count() -> None:
    lo = torch.tensor([-1.0, -2.0], requires_grad=True)
    values = torch.tensor([[0.5, NAN], [0.25, NAN]], requires_grad=True)
    box = cx.Box(lo, [1.0, 1.0]).fix(values, [True, False])
    (box.lo * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert lo.grad is not None
    assert values.grad is not None
    assert lo.grad.tolist() == [0.0, 6.0]
    assert values.grad.tolist() == [[1.0, 0.0], [3.0, 0.0]]


def test_fixing_changes_no_box() -> None:
    box = cx.Box(0, 1, shape=(2,))
    values = torch.tensor([0.5, 0.5], dtype=torch.float64)
    fixed = box.fix(values, True)
    values.fill_(7.0)
    assert (box.lo.tolist(), box.hi.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert fixed.lo.tolist() == [0.5, 0.5]
    with pytest.raises(AttributeError):
        box.lo = values  # pyright: ignore


WRONG: dict[str, tuple[Any, Any, str]] = {
    "outside": ([2.0, 0.0], [True, False], r"2 to fix element \(0,\) to lies outside the box, \[0, 1\]"),
    "NaN": ([0.0, NAN], [False, True], "nan to fix element"),
    "infinite": ([0.0, torch.inf], [False, True], "inf to fix element"),
    "in one sample": ([[0.5, 0.5], [0.5, -1.0]], True, r"element \(1, 1\)"),
    "values too long": ([0.0, 0.0, 0.0], True, r"shape \(2,\)"),
    "numbers of coordinates for a mask": (0.5, [0, 1, 1], r"shape \(2,\)"),
    "two batches": (torch.zeros(3, 2), torch.ones(2, 2, dtype=torch.bool), r"\(3, 2\) and \(2, 2\)"),
    "a dimension too many": (torch.zeros(2, 3, 2), True, r"\(2, 3, 2\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_fixed(name: str) -> None:
    values, mask, text = WRONG[name]
    with pytest.raises(ValueError, match=text):
        cx.Box(0, 1, shape=(2,)).fix(values, mask)


def test_boxes_that_are_none() -> None:
    for arguments, text in (
        ((0, 1), "sample's shape"),
        (([0.0, 0.0], [1.0, -1.0]), r"lo = 0 > hi = -1 at element \(1,\)"),
        (([NAN], [1.0]), "NaN"),
        (([0.0, 0.0], [1.0, 1.0, 1.0]), "do not fit"),
        (([0.0, 0.0], [1.0, 1.0], (3,)), "do not fit"),
    ):
        with pytest.raises(ValueError, match=text):
            cx.Box(*arguments)

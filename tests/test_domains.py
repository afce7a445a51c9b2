"""Boxes: fixed coordinates, batches of boxes, and the gradients that flow through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import convexnet as cx

NAN = float("nan")
ANY: Any = cx.Box  # for arguments of other types than the declared ones


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
    "a mask of shares": (0.5, [0.2, 0.0], "must hold booleans"),
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
            ANY(*arguments)


# --- what is read alike, and bounds of each sample's own -------------------------------------------------------------

LOWER = [-1.0, 0.0, 0.25]
ALIKE: dict[str, Any] = {
    "a tuple": tuple(LOWER),
    "a tensor": torch.tensor(LOWER),
    "an array": np.array(LOWER),
    "an array of float32": np.array(LOWER, dtype=np.float32),
    "an array backwards": np.array(LOWER[::-1])[::-1],
    "an array that cannot be written": np.broadcast_to(np.array(LOWER), (3,)),
    "an array of another byte order": np.array(LOWER).astype(">f8"),
    "an array of long doubles": np.array(LOWER, dtype=np.longdouble),
    "numbers of numpy": [np.float32(-1), np.int64(0), np.float64(0.25)],
    "tensors": [torch.tensor(number) for number in LOWER],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ALIKE)
def test_bounds_are_read_alike(name: str) -> None:
    box = ANY(ALIKE[name], np.float32(2))
    assert (box.lo.tolist(), box.hi.tolist()) == (LOWER, [2.0] * 3)
    assert box.lo.dtype == box.hi.dtype == torch.float64
    assert ANY(-3, 3, shape=3).fix(ALIKE[name], True).lo.tolist() == LOWER
    assert box.contains(np.array([LOWER, [2.5, 0.0, 0.3]])).tolist() == [True, False]
    assert box.project([[-3.0, 9.0, 1.0]]).tolist() == [[-1.0, 2.0, 1.0]]


@pytest.mark.parametrize(
    "shape", [3, np.int64(3), [3], (3,), torch.Size([3]), np.array([3]), torch.tensor([3])], ids=str
)
def test_shapes_are_read_alike(shape: Any) -> None:
    assert ANY(0, 1, shape=shape).shape == torch.Size([3])
    assert ANY(0, 1, shape=shape, batch=np.int64(2)).lo.shape == torch.Size([2, 3])


def test_bounds_of_each_sample() -> None:
    lo = torch.tensor([[-1.0, 0.0], [0.0, 0.5]], requires_grad=True)
    for box in (ANY(lo, 1, batch=2), ANY(lo, 1, shape=2, batch=2), ANY(lo, np.ones((1, 2)), 2, 2)):
        assert (box.shape, box.batch, box.lo.tolist()) == (torch.Size([2]), 2, lo.tolist())
        assert box.hi.tolist() == [[1.0, 1.0]] * 2
    box = ANY(lo, 1, batch=2)
    assert box.hull().lo.tolist() == [-1.0, 0.0]
    assert box.contains(torch.tensor([[-0.5, 0.25], [-0.5, 0.25]])).tolist() == [True, False]
    assert box.fix(0.75, [False, True]).lo.tolist() == [[-1.0, 0.75], [0.0, 0.75]]
    box.lo.sum().backward()
    assert lo.grad is not None
    assert ANY(0, 1, shape=2, batch=3).lo.tolist() == [[0.0, 0.0]] * 3
    assert ANY([0.0, 1.0], 2, shape=2, batch=2).lo.tolist() == [[0.0, 1.0]] * 2, "the same bounds for both"
    assert ANY([0.0, 1.0], 2, batch=2).shape == torch.Size([]), "one number for each sample"
    assert ANY([[0.0, 1.0]], 2, batch=4).lo.tolist() == [[0.0, 1.0]] * 4


def test_no_points_and_large_numbers() -> None:
    assert cx.Box(0, 1, shape=2).contains(torch.zeros(0, 2)).tolist() == []
    assert cx.Box(0, [10**30, 1]).hi.tolist() == [1e30, 1.0]


def test_a_box_is_no_window_on_the_tensors_it_was_made_of() -> None:
    lo = torch.zeros(2, dtype=torch.float64)
    box = ANY(lo, 1)
    lo.fill_(5.0)
    assert box.lo.tolist() == [0.0, 0.0]


EMPTY: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no shape": (lambda: ANY(-1, 1), ValueError, r"two numbers needs the sample's shape: Box\(-1, 1, shape="),
    "no shape of a batch": (lambda: ANY(-1, 1, batch=4), ValueError, r"shape=\(3,\), batch=4\)"),
    "NaN": (lambda: ANY([0, 0, NAN], 1), ValueError, r"lo of the Box is NaN at element \(2,\)"),
    "NaN above": (
        lambda: ANY([[0.0], [0.0]], [[1.0], [NAN]], batch=2),
        ValueError,
        r"hi .* is NaN at element \(1, 0\)",
    ),
    "crossed": (lambda: ANY([0, 3], [1, 2]), ValueError, r"empty: lo = 3 > hi = 2 at element \(1,\)"),
    "crossed by little": (
        lambda: ANY(1 + 1e-12, 1, shape=1),
        ValueError,
        r"lo = 1\.000000000001 > hi = 1\.0 at element \(0,\)",
    ),
    "endless": (
        lambda: ANY(torch.inf, torch.inf, shape=2),
        ValueError,
        "lo = inf and hi = inf .* no number lies there",
    ),
    "endless below": (lambda: ANY(-torch.inf, -torch.inf, shape=2), ValueError, "no number lies there"),
    "nothing": (
        lambda: ANY(None, 1, shape=2),
        TypeError,
        "lo of the Box must be a tensor, an array .*, not NoneType",
    ),
    "words": (lambda: ANY("0", 1, shape=2), TypeError, "lo of the Box must be .*, not str"),
    "a list of words": (lambda: ANY(["a"], 1), TypeError, "not list of <U1 entries"),
    "complex": (lambda: ANY(0, 1j, shape=2), TypeError, "hi of the Box is complex"),
    "a ragged list": (
        lambda: ANY([[0], [0, 1]], 1),
        ValueError,
        "lo of the Box is a list whose rows have different",
    ),
    "tensors that do not fit": (lambda: ANY([torch.zeros(1), torch.zeros(2)], 1), ValueError, "do not fit together"),
    "without numbers": (lambda: ANY(torch.zeros(2, device="meta"), 1), TypeError, "the device 'meta'"),
    "sparse": (lambda: ANY(torch.zeros(2).to_sparse(), 1), TypeError, "to_dense"),
    "two lengths": (lambda: ANY([0, 0], [1, 1, 1]), ValueError, r"lo has shape \(2,\) and hi \(3,\)"),
    "a batch without saying so": (
        lambda: ANY(np.zeros((5, 2)), 1, shape=2),
        ValueError,
        r"do not fit its shape \(2,\): .* for bounds of each sample's own say batch=5",
    ),
    "another batch": (
        lambda: ANY(np.zeros((5, 2)), 1, batch=4),
        ValueError,
        r"with batch=4 the bounds are \(4, \*shape\)",
    ),
    "a batch of one vector": (lambda: ANY([0, 0, 0], 1, batch=4), ValueError, r"in all samples say shape=\(3,\)"),
    "no samples": (
        lambda: ANY(0, 1, 2, batch=0),
        ValueError,
        "batch, the number of samples, must be an integer of at",
    ),
    "half a shape": (lambda: ANY(0, 1, shape=2.5), ValueError, r"shape must be an integer of at least 0, not 2\.5"),
    "a negative shape": (lambda: ANY(0, 1, shape=(2, -1)), ValueError, r"shape\[1\] must be .* not -1"),
    "a shape in words": (
        lambda: ANY(0, 1, shape="2"),
        TypeError,
        "shape must be an integer or a sequence of integers",
    ),
    "a point": (
        lambda: ANY(0, 1, 2).contains([0.5, 0.5]),
        ValueError,
        r"shape \(B, 2\), and these .* x is x\[None\]",
    ),
    "points of another length": (
        lambda: ANY(0, 1, 2).project(torch.zeros(4, 3)),
        ValueError,
        r"\(B, 2\), and these have \(4, 3\)",
    ),
    "points of another batch": (
        lambda: ANY(0, 1, 2, 3).contains(torch.zeros(4, 2)),
        ValueError,
        r"\(3, 2\), and these",
    ),
    "under vmap": (
        lambda: torch.vmap(lambda lo: ANY(lo, 1).lo)(torch.zeros(2, 3)),
        TypeError,
        r"lo of the Box is a tensor of torch\.vmap",
    ),
}


@pytest.mark.parametrize("name", EMPTY)
def test_what_is_no_box_is_named(name: str) -> None:
    call, kind, words = EMPTY[name]
    with pytest.raises(kind, match=words):
        call()


# --- what rounding leaves --------------------------------------------------------------------------------------------


def beside(bound: Tensor, ulps: int, up: bool) -> Tensor:
    """The number so many units in the last place above or below."""
    for _ in range(ulps):
        bound = torch.nextafter(bound, torch.tensor(torch.inf if up else -torch.inf, dtype=bound.dtype))
    return bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [0.0, 0.1, -0.7, 1e-30, 1e6])
def test_a_number_beside_a_bound_counts_as_the_bound(bound: float, dtype: torch.dtype) -> None:
    low = torch.tensor(bound, dtype=dtype)
    box = ANY(low, low.double() + 1 + abs(bound), shape=1)
    for ulps in (1, 3):
        near = beside(low, ulps, up=False).reshape(1).requires_grad_()
        assert box.contains(near.detach()[None]).tolist() == [True]
        fixed = box.fix(near, True)
        assert fixed.lo.tolist() == fixed.hi.tolist() == [float(low)]
        fixed.lo.sum().backward()
        assert near.grad is not None
        assert near.grad.tolist() == [1.0]
        above = beside(box.hi.to(dtype)[0], ulps, up=True)
        assert box.contains(above.reshape(1, 1)).tolist() == [True]
    far = beside(low, 20, up=False).reshape(1)
    assert box.contains(far[None]).tolist() == [False]
    with pytest.raises(ValueError, match=r"lies outside the box, \["):
        box.fix(far, True)


def test_a_value_that_looks_like_the_bound_is_shown_in_full() -> None:
    with pytest.raises(ValueError, match=r"the value 1\.000000000001 to fix .* \[0\.0, 1\.0\]"):
        ANY(0, 1, shape=1).fix(1 + 1e-12, True)


def test_nothing_is_near_an_infinite_bound() -> None:
    box = ANY([-torch.inf, 0.0], [torch.inf, torch.inf])
    assert box.contains(torch.tensor([[1e30, 1e30], [-1e30, -1e-3], [NAN, 1.0], [torch.inf, 1.0]])).tolist() == [
        True,
        *[False] * 3,
    ]
    with pytest.raises(ValueError, match="the value inf"):
        box.fix([torch.inf, 0.0], True)

"""Derivatives that can be differentiated again, and those of the smoothed function: see `implicit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from convexnet.solve.derivatives.backward import find_held_precisely, pull_back
from convexnet.solve.derivatives.implicit import as_it_was, differentiable_once, implicit_gradients
from convexnet.solve.derivatives.saved_minimum import Gradients, SavedMinimum, bound_gradient, flat_bound
from convexnet.solve.derivatives.surrogates import barrier_hessian, smoothed_values
from convexnet.solve.derivatives.unavailable import explain_many_variables, explain_missing, explain_no_second
from convexnet.solve.derivatives.without_matrices import pull_back_smooth
from convexnet.solve.functions.matrix_free import keep_unchanged
from convexnet.solve.functions.problem import Problem
from convexnet.solve.functions.smoothing import smoothing_units
from convexnet.solve.solvers.incumbents import rises, sign_patterns


def pull_back_differentiably(
    at: SavedMinimum,
    x: Tensor,
    lo: Tensor,
    hi: Tensor,
    tensors: list[Tensor],
    to_x: Tensor | None,
    to_value: Tensor | None,
) -> Gradients:
    """The gradients of `pull_back`, which can be differentiated in their turn where no kink holds the minimiser."""
    flat = torch.zeros_like(at.lo) if to_x is None else to_x.detach().reshape(at.lo.shape).double()
    at.form()
    with torch.no_grad():
        held = find_held_precisely(at, flat)
    opened = at.reading.opened
    assert opened is not None
    kinks = [k for k, samples in held.kinks.items() if bool(samples.any())]
    if kinks:
        sample = int(held.kinks[kinks[0]].nonzero()[0])
        plain = pull_back(at, tensors, *(None if t is None else t.detach() for t in (to_x, to_value)))
        why = partial(explain_no_second, opened, at.inputs, kinks[0], sample)
        return only_once(plain, why, (to_x, to_value, x, lo, hi, *tensors))
    made, inputs, live = at.aliases(tensors)

    def f(y: Tensor) -> Tensor:
        inputs[at.variable] = y.view(len(y), *at.box.shape)
        return opened.run(inputs, keep_unchanged, live).expand(len(y))

    y = as_it_was(x.reshape(at.lo.shape).double(), held.y)
    arriving = (
        None if to_x is None else to_x.reshape(at.lo.shape).double(),
        None if to_value is None else to_value.double(),
    )
    to_lo, to_hi, others = implicit_gradients(f, y, made, held.low, held.high, *arriving)
    ends = bound_gradient(to_lo, at.box.lo, at.box.shape), bound_gradient(to_hi, at.box.hi, at.box.shape)
    return ends, [gradient.to(tensor) for gradient, tensor in zip(others, tensors, strict=True)]


def pull_back_many(
    at: SavedMinimum,
    x: Tensor,
    lo: Tensor,
    hi: Tensor,
    tensors: list[Tensor],
    to_x: Tensor | None,
    to_value: Tensor | None,
) -> Gradients:
    """The gradients of `pull_back_smooth`, whose own derivatives are an error in words."""
    if not torch.is_grad_enabled():
        return pull_back_smooth(at, tensors, to_x, to_value)
    plain = pull_back_smooth(at, tensors, *(None if t is None else t.detach() for t in (to_x, to_value)))
    return only_once(plain, partial(explain_many_variables, at.f), (to_x, to_value, x, lo, hi, *tensors))


def only_once(plain: Gradients, why: Callable[[], str], arrived: Sequence[Tensor | None]) -> Gradients:
    """Gradients that depend on what has arrived, and whose own derivatives are an error."""
    results = [gradient.detach() for gradient in (*plain[0], *plain[1])]
    lower, upper, *rest = differentiable_once(why, results, [t for t in arrived if t is not None])
    return (lower, upper), rest


def pull_back_smoothed(
    at: SavedMinimum,
    x: Tensor,
    lo: Tensor,
    hi: Tensor,
    tensors: list[Tensor],
    to_x: Tensor | None,
    to_value: Tensor | None,
) -> Gradients:
    """The gradients of x with the functions smoothed; those of the value are exact, and their derivatives smoothed."""
    opened, more = at.reading.opened, torch.is_grad_enabled()
    if opened is None:
        raise RuntimeError(explain_missing(at.f, at.reading, at.name))
    with torch.enable_grad():
        made, inputs, live = at.aliases(tensors)
        run = smoothed_values(opened, smoothing_units(at.f, at.lo, at.hi))

        def f(y: Tensor) -> Tensor:
            inputs[at.variable] = y.view(len(y), *at.box.shape)
            return run(inputs, live).expand(len(y))

        y = as_it_was(x.reshape(at.lo.shape).double(), at.found.y)
        to_lo, to_hi = torch.zeros_like(at.lo), torch.zeros_like(at.lo)
        others = [torch.zeros_like(tensor) for tensor in made]
        if to_x is not None:
            below, above = (
                as_it_was(flat_bound(end, at.box.shape, len(at.lo)), kept) for end, kept in ((lo, at.lo), (hi, at.hi))
            )
            problem, found = Problem(at.f, at.lo, at.hi), at.found
            ways = sign_patterns(problem.size, found.y)[:, None]
            size = rises(problem, found.y, at.f.value(found.y), ways).amax(0).clamp(min=1e-12)[:, None]
            fixed = at.lo == at.hi
            arriving = to_x.reshape(at.lo.shape).double()
            walls = barrier_hessian(y, below, above, size)
            to_lo, to_hi, others = implicit_gradients(f, y, made, fixed, torch.zeros_like(fixed), arriving, None, walls)
        bounds = [bound_gradient(end, bound, at.box.shape) for end, bound in ((to_lo, at.box.lo), (to_hi, at.box.hi))]
        results = [*bounds, *(gradient.to(tensor) for gradient, tensor in zip(others, tensors, strict=True))]
        if to_value is not None:
            ends, exact = pull_back(at, tensors, None, to_value.detach())
            results = [mine + part for mine, part in zip(results, [*ends, *exact], strict=True)]
        if to_value is not None and more:
            low, high = (y == at.lo).detach(), (y == at.hi).detach()
            to_lo, to_hi, others = implicit_gradients(f, y, made, low, high, None, to_value.double())
            bounds = [
                bound_gradient(end, bound, at.box.shape) for end, bound in ((to_lo, at.box.lo), (to_hi, at.box.hi))
            ]
            curved = [*bounds, *(gradient.to(tensor) for gradient, tensor in zip(others, tensors, strict=True))]
            results = [mine + (part - part.detach()) for mine, part in zip(results, curved, strict=True)]
    if not more:
        results = [gradient.detach() for gradient in results]
    return (results[0], results[1]), results[2:]

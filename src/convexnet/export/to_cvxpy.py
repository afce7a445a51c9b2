"""`to_cvxpy`: a convex network as an expression of CVXPY."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from convexnet.arrays import listed_inputs
from convexnet.curvature.arguments import unwrap
from convexnet.domains import Box
from convexnet.errors import NotCertified
from convexnet.export.arguments import one_value, read_form, sample_inputs, variable_of
from convexnet.extras import need
from convexnet.form.tightness import check_tight


def to_cvxpy(model: nn.Module, variable: Any, given: Any = None, *, wrt: int = -1) -> Any:
    """Return a network that is convex in one of its inputs as a convex expression of CVXPY, for one sample.

    The expression obeys the rules of disciplined convex programming like any convex atom: it may be minimised, bounded
    from above, added and multiplied by what is not negative. CVXPY itself refuses to maximise it or to set it equal to
    something. Its `value` is the network's, in float64.

    A lower bound, expression >= c, is not a convex constraint, and is refused by name. The tangent plane at a point
    lies below the network, so that `cvxpy.linearize(expression) >= c`, taken where the variable has that value, is a
    convex constraint that is stricter: an inner approximation. CVXPY's own error comes where the same is written in
    another way, as -expression <= -c.

    For affine layers of every kind, convolutions, BatchNorm, pooling, skips, concatenation, ReLU, LeakyReLU, PReLU,
    ELU, CELU, softplus, exponentials, log-sum-exp, powers, norms, variances, absolute values, maxima, sums of the
    largest, logarithms, entropies and losses. The page "CVXPY's atoms and ours" of the documentation lists them.

    A function that is convex on a domain only, as x³ or -log(x), asks for a variable that stays there:
    `cvxpy.Variable(n, nonneg=True)`, or `bounds=[lo, hi]`. A constraint of the problem is not seen here.

    Args:
        model: a module that is proved convex in that input, and returns one tensor. Evaluated in eval mode, as it is
            now: training it further does not change the expression.
        variable: a `cvxpy.Variable`, or an affine expression, with the shape of one sample of that input. A network
            that takes (..., n) also takes a matrix (T, n), and is then applied to each row. One of images that
            remembers its example (those of `convexnet.nn`, and what was constrained or converted) takes flat ones too.
        given: one value for each other input, in order: a tensor, an array or a list of numbers (with a batch dimension
            of 1 or without), or a `cvxpy.Parameter`, for a problem that is compiled once (DPP) and solved for many
            values. For several inputs a tuple of them.
        wrt: the number of the input that the variable stands for; -1 is the last.

    Returns:
        An expression of the shape of one sample's output, each element convex; a scalar for (B,) and (B, 1).

    Raises:
        NotCertified: not proved convex, or an operator has no form here: named, with source line and remedy.
        NotTraceable: `torch.export` cannot record the forward.
        ValueError, TypeError: wrong arguments, or a batch of several samples.
        ImportError: cvxpy is missing; the error names the extra.

    Source: Grant & Boyd, Graph Implementations for Nonsmooth Convex Programs (2008): each nonlinearity is stated as
        z >= g(a), which is exact because nothing in a certified network gains by a greater z.

    Example:
        >>> import cvxpy
        >>> import convexnet as cx
        >>> net, y = cx.nn.FICNN(2, hidden=(8, 8)), cvxpy.Variable(2)
        >>> cost = to_cvxpy(net, y)
        >>> cost.curvature
        'CONVEX'
        >>> problem = cvxpy.Problem(cvxpy.Minimize(cost + cvxpy.norm1(y)), [cvxpy.sum(y) == 1])
        >>> _ = problem.solve()
        >>> bool(abs(net(torch.tensor(y.value).float()).item() - cost.value) < 1e-4)
        True
    """
    cp = need("cvxpy")
    need("scipy.sparse")
    from convexnet.export.cvxpy_atom import Given, network

    inner = unwrap(model)
    expression = checked_variable(cp, variable)
    listed = listed_inputs(given)
    number = variable_of(wrt, len(listed))
    items = [item if is_expression(cp, item) and item.parameters() else None for item in listed]
    values = [start(cp, item, place, number) for place, item in enumerate(listed)]
    inputs = sample_inputs(inner, values, expression.shape, number)
    items.insert(number, None)
    parameters = [place for place, item in enumerate(items) if item is not None]
    domain = bounds_of(expression, inputs[number].shape[1:])
    try:
        form, sample = read_form(inner, inputs, parameters, variable=number, domain=domain)
    except NotCertified as error:
        if domain is None:
            error.add_note(NO_DOMAIN)
        raise
    positive = check_tight(form, type(inner).__name__, domain)
    flat = expression if expression.ndim == 1 else cp.reshape(expression, (expression.size,), order="C")
    return network(flat, Given(sample, form, inputs, items, positive))


NO_DOMAIN = (
    "the variable has no bounds: if it is convex on a domain, create the variable with it, as in "
    "cvxpy.Variable(n, nonneg=True) or cvxpy.Variable(n, bounds=[lo, hi])"
)


def is_expression(cp: Any, value: Any) -> bool:
    return isinstance(value, cp.Expression)


def bounds_of(expression: Any, shape: torch.Size) -> Box | None:
    """The bounds that CVXPY knows of an expression, from `bounds`, `nonneg`, `pos` and their kin; None: it has none."""
    ends = [np.full(expression.shape, -np.inf), np.full(expression.shape, np.inf)]
    if not expression.parameters():  # whose values may change
        ends = [np.broadcast_to(np.asarray(end, np.float64), expression.shape) for end in expression.get_bounds()]
    ends = [torch.as_tensor(end.copy()) for end in ends]
    if expression.is_nonneg():
        ends[0] = ends[0].clamp(min=0)
    if expression.is_nonpos():
        ends[1] = ends[1].clamp(max=0)
    lo, hi = (end.reshape(shape) for end in ends)
    return None if bool(lo.isinf().all() & hi.isinf().all()) else Box(lo, torch.maximum(lo, hi))


def checked_variable(cp: Any, variable: Any) -> Any:
    """An affine expression to put into the network."""
    if not is_expression(cp, variable) or variable.is_complex():
        raise TypeError(
            f"the variable is a real cvxpy.Variable, or an affine expression, not {type(variable).__name__}: "
            "cvxpy.Variable(n) for a network of vectors of length n"
        )
    if not variable.is_affine():
        raise ValueError(
            f"what is put into the network must be affine, and {variable} is {variable.curvature.lower()}: introduce a "
            "variable and set it equal to an affine expression"
        )
    return variable


def start(cp: Any, item: Any, place: int, variable: int) -> Any:
    """A value to read the network with: of a parameter that has none yet, zeros."""
    if not is_expression(cp, item):
        return one_value(item, place)
    if item.variables():
        raise TypeError(
            f"given[{place}] depends on a variable, and the network is convex in input {variable} only: give a "
            "Parameter or an array"
        )
    attributes = getattr(item, "attributes", {})  # of a parameter itself
    whole = bool(attributes.get("integer") or attributes.get("boolean"))
    value = np.zeros(item.shape) if item.value is None else np.asarray(item.value, dtype=np.float64)
    return one_value(torch.as_tensor(value.astype(np.int64) if whole else value), place)

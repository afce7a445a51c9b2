"""Quadratic forms: sums of products of two quantities that are both linear in a third, such as xᵀ P x.

The expression is taken apart: what is linear before the product, the product, and what is linear after it. Applied to
the unit vectors this gives the Hessian of each result, which has to be positive semidefinite (see `semidefinite`).
Numbers of float32 that pass through one weighted operator are exact in float64; elsewhere an error is granted.

Long because a form is taken apart, applied and proved in one thought.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convexnet.curvature.call import Call
from convexnet.curvature.facts import AFFINE, INF, Fact, as_fact, unknown
from convexnet.curvature.fields import BATCH, aligned_rows, core, is_aligned, uniform
from convexnet.curvature.patterns.expressions import Made, made_as
from convexnet.curvature.patterns.semidefinite import is_semidefinite
from convexnet.curvature.row import Row, Sum
from convexnet.curvature.rules.arithmetic import mul, neg
from convexnet.curvature.rules.layers import batch_norm, batch_norm_functional, bilinear_form
from convexnet.curvature.rules.reductions import Reduction

MOST = 48
"""The largest number of elements of a sample for which Hessians are made."""
LOOSE = 1e-10
"""Relative error granted to what passes through several weighted operators: a hundred times what can be."""


class Nonlinear(Exception):
    """The expression is not of this kind."""


def varying_facts(call: Call) -> list[Fact]:
    return [fact for fact in call.facts() if not fact.constant]


def is_linear(fact: Fact) -> bool:
    """Whether a tensor was made by an operator that is affine in what varies."""
    return made_as(fact, makes_linear) is not None


def makes_linear(made: Made) -> bool:
    call, row = made.call, made.row
    if not is_linear_step(row) or is_conversion(call):
        return False
    moving = varying_facts(call)
    if row.added is not None and len(call.args) > row.added and any(call.args[row.added] is fact for fact in moving):
        return False
    if row.divisor is not None and (call.kwargs or len(moving) != 1 or moving[0] is not call.args[0]):
        return False
    return len(moving) == 1 or isinstance(row.rule, Sum) or row.is_move


def is_linear_step(row: Row) -> bool:
    """Whether an operator moves elements, or adds and weighs them, as far as it is understood here."""
    if row.is_move or isinstance(row.rule, Reduction):
        return row.adds_nothing or (row.is_affine and not row.is_move)
    return row.is_affine and (isinstance(row.rule, Sum) or row.runs(neg) or row.divisor is not None or is_product(row))


def is_product(row: Row) -> bool:
    """Whether an operator multiplies two of its arguments, and may add a third."""
    return row.runs(bilinear_form) or (row.multiplies and not row.runs(batch_norm, batch_norm_functional))


def is_conversion(call: Call) -> bool:
    return any(isinstance(arg, torch.dtype) for arg in (*call.args, *call.kwargs.values()))


@dataclass
class LinearPart:
    """The linear part of an expression, applied to a value of its root; `absolute` bounds the numbers it adds up."""

    root: Fact
    value: Tensor
    absolute: bool
    done: dict[int, Tensor]
    shifted: bool = False  # a constant was left out
    weighted: int = 0
    exact: bool = True  # no number was rounded: none is a sum of numbers that were weighted

    def of(self, fact: Fact) -> Tensor:
        if fact is self.root:
            return self.value
        if id(fact) not in self.done:
            if not is_linear(fact):
                raise Nonlinear
            found = self.apply(fact.made)
            self.note(fact.made)
            self.done[id(fact)] = found.abs() if self.absolute else found
        return self.done[id(fact)]

    def note(self, made: Made) -> None:
        """Whether what a call computed of a unit vector is exact."""
        call, row = made.call, made.row
        moving = varying_facts(call)
        if isinstance(row.rule, Sum):
            self.weighted += call.arg(2, "alpha", 1) != 1
            self.exact = self.exact and not (self.weighted and len(moving) > 1)
        elif not (row.is_move or row.runs(neg)):
            self.weighted += 1
            few = (self.of(moving[0]) != 0).reshape(-1).sum() <= BATCH
            alone = row.divisor is not None or row.runs(mul) or bool(few)
            self.exact = self.exact and alone and self.weighted <= 1

    def apply(self, made: Made) -> Tensor:
        call, row = made.call, made.row
        if isinstance(row.rule, Sum):
            alpha = float(call.arg(2, "alpha", 1))
            first, second = row.rule.signs
            signs = (first * alpha, second) if first < 0 else (first, second * alpha)
            total = torch.zeros(tuple(call.shape), dtype=torch.float64)
            for sign, arg in zip(signs, call.args[:2], strict=True):
                part = as_fact(arg)
                if part.constant:
                    self.shifted = True
                else:
                    total = total + (abs(sign) if self.absolute else sign) * self.of(part)
            return total
        dropped = call.args[row.added] if row.added is not None and len(call.args) > row.added else None
        return call.run(lambda fact: self.number(fact, fact is dropped or row.is_move))

    def number(self, fact: Fact, dropped: bool) -> Tensor:
        if not fact.constant:
            return self.of(fact)
        if fact.value is None:
            raise Nonlinear
        if not fact.value.is_floating_point():
            return fact.value
        if dropped:
            self.shifted = self.shifted or bool((fact.value != 0).any())
            return torch.zeros(tuple(fact.shape), dtype=torch.float64)
        return fact.value.double().abs() if self.absolute else fact.value.double()


@dataclass(frozen=True)
class ProductForm:
    """A product of two linear quantities, and what is linear after it."""

    product: Call
    a: Fact
    b: Fact
    after: list[Made]

    def __call__(self, a: Tensor, b: Tensor, absolute: bool) -> Tensor:
        sides = iter((a, b))

        def first(fact: Fact) -> Tensor:
            return next(sides) if not fact.constant else self.constant(fact, absolute)

        value = self.product.run(first)
        for made in self.after:
            given = value
            value = made.call.run(lambda fact, v=given: v if not fact.constant else self.constant(fact, absolute))
            value = value.abs() if absolute else value
        return value.double()

    def constant(self, fact: Fact, absolute: bool) -> Tensor:
        if fact.value is None:
            raise Nonlinear
        if not fact.value.is_floating_point():
            return fact.value
        return fact.value.double().abs() if absolute else fact.value.double()


def product_form_of(call: Call, row: Row) -> ProductForm | None:
    """The last product of two varying quantities in an expression, if all that follows is linear."""
    after: list[Made] = []
    while True:
        moving = varying_facts(call)
        plain = row.added is None or len(call.args) <= row.added or call.args[row.added] is None
        if is_product(row) and len(moving) == 2 and plain:
            if row.runs(mul) and not after:
                return None  # no sum follows: of one element each
            return ProductForm(call, moving[0], moving[1], after)
        if not is_linear_step(row) or isinstance(row.rule, Sum) or len(moving) != 1 or not plain or is_conversion(call):
            return None
        if row.divisor is not None and (call.kwargs or as_fact(call.arg(0, "self")).constant):
            return None
        after.insert(0, Made(call, row, 0))
        made: Made | None = moving[0].made
        if made is None:
            return None
        call, row = made.call, made.row


def root_of(form: ProductForm) -> Fact | None:
    """The nearest quantity of which both factors are linear functions."""
    found = {id(fact): fact for fact in (form.a, form.b)}
    for _ in range(32):
        if len(found) == 1:
            return next(iter(found.values()))
        open_ones = [fact for fact in found.values() if is_linear(fact)]
        if not open_ones:
            return None
        deepest = max(open_ones, key=lambda fact: fact.made.depth)
        del found[id(deepest)]
        found.update({id(fact): fact for fact in varying_facts(deepest.made.call)})
    return None


def quadratic_fact(call: Call, row: Row) -> Fact | None:
    """The fact of a quadratic form; None if the expression is none, or is of no sign."""
    if not (is_product(row) or is_linear_step(row)) or not call.floating or len(call.shapes) != 1:
        return None
    form = product_form_of(call, row)
    root = None if form is None else root_of(form)
    if form is None or root is None or root.curvature != AFFINE or not is_by_row(root):
        return None
    shape = tuple(call.shape)
    if shape[:1] != (BATCH,) or root.shape[1:].numel() > MOST:
        return None
    try:
        return prove_form(call, form, root)
    except (Nonlinear, RuntimeError, TypeError, ValueError, IndexError, StopIteration):
        return None


def is_by_row(fact: Fact) -> bool:
    """Whether row i depends on row i of the batch only."""
    if is_aligned(fact.rows):
        return True
    if not fact.shape or fact.shape[0] != BATCH:
        return False
    rows = core(fact.rows).expand(BATCH, *core(fact.rows).shape[1:])
    return not bool((rows[0] & 2).any()) and not bool((rows[1] & 1).any())


def prove_form(call: Call, form: ProductForm, root: Fact) -> Fact | None:
    n = root.shape[1:].numel()
    units = [one.reshape(1, *root.shape[1:]).expand(tuple(root.shape)) for one in torch.eye(n, dtype=torch.float64)]
    exact, plain = True, True

    def sides(value: Tensor, absolute: bool) -> tuple[Tensor, Tensor]:
        nonlocal exact, plain
        found: list[Tensor] = []
        for fact in (form.a, form.b):
            linear = LinearPart(root, value, absolute, {})
            found.append(linear.of(fact))
            exact, plain = exact and linear.exact, plain and not linear.shifted
        return found[0], found[1]

    ones = torch.ones(tuple(root.shape), dtype=torch.float64)
    apart = ones.clone()
    apart[1] = 0
    (a, _), (_, b) = sides(apart, True), sides(ones - apart, True)
    if bool((form(a, b, True) != 0).any()) or bool((form(*sides(apart, True), True)[1] != 0).any()):
        return None  # the rows of the batch are mixed
    if bool((form(*sides(ones - apart, True), True)[0] != 0).any()):
        return None
    exact = True  # of unit vectors
    values = [sides(unit, False) for unit in units]
    sizes = [sides(unit, True) for unit in units]
    m = math.prod(call.shape[1:])
    hessian = torch.zeros(BATCH, m, n, n, dtype=torch.float64)
    radius = torch.zeros_like(hessian)
    if m > MOST:
        return None
    single = exact and len(form.after) <= 1 and all(made.row.is_view or made.call.name == "sum" for made in form.after)
    for i in range(n):
        for j in range(n):
            value = form(values[i][0], values[j][1], False)
            size = form(sizes[i][0], sizes[j][1], True)
            error = LOOSE * size
            if single:  # one product of two numbers of float32 is exact
                few = count_terms(form, values[i][0], values[j][1]) <= 1
                short = has_exact_products(values[i][0], values[j][1], *constant_facts(form))
                error = torch.where(few & torch.tensor(short), 0.0, error)
            for store, part in ((hessian, value), (radius, error)):
                store[:, :, i, j] += part.reshape(BATCH, m)
    turned = hessian.mT
    total = hessian + turned
    back = total - hessian
    lost = ((hessian - (total - back)) + (turned - back)).abs()
    radius = radius + radius.mT + lost * (1 + 1e-9)
    return fact_of(call, total, radius, root, plain)


def count_terms(form: ProductForm, a: Tensor, b: Tensor) -> Tensor:
    """How many products that are not zero each result sums up."""
    marks = {id(fact): (fact.value != 0).double() for fact in form.product.facts() if fact.constant}
    sides = iter(((a != 0).double(), (b != 0).double()))
    value = form.product.run(lambda fact: marks[id(fact)] if fact.constant else next(sides))
    for made in form.after:
        value = made.call.run(lambda fact, v=value: v if not fact.constant else form.constant(fact, True))
    return value


def constant_facts(form: ProductForm) -> list[Tensor]:
    return [fact.value for fact in form.product.facts() if fact.constant and fact.value is not None]


def has_exact_products(*tensors: Tensor) -> bool:
    """Whether products of these numbers are exact in float64."""
    halves = [t.double().frexp().mantissa.abs() for t in tensors]
    wide = sum(not bool(((half == 0.5) | (half == 0)).all()) for half in halves)  # no powers of two
    return wide <= 1 or (wide <= 2 and all(bool((t.double() == t.float().double()).all()) for t in tensors))


def fact_of(call: Call, hessian: Tensor, radius: Tensor, root: Fact, plain: bool) -> Fact | None:
    convex: list[bool] = []
    concave: list[bool] = []
    for row in range(BATCH):
        for matrix, error in zip(hessian[row], radius[row], strict=True):
            convex.append(is_semidefinite(matrix, error))
            concave.append(is_semidefinite(-matrix, error))
    if not any(convex) and not any(concave):
        return None
    shape = tuple(call.shape)
    base = unknown(shape, aligned_rows(shape))
    marks = [~torch.tensor(mask).reshape(shape) for mask in (convex, concave)]
    if all(convex):
        marks[0] = uniform(False, shape, torch.bool)
    result = replace(base, nonconvex=marks[0], nonconcave=marks[1])
    if all(convex) and plain:  # a square of a seminorm
        line = uniform(0.0, shape, torch.float64), uniform(INF, shape, torch.float64)
        result = replace(result.bounded(*line), degree=2.0)
    return result

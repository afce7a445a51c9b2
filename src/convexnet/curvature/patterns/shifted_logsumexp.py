"""m + log sum exp(x - m) is log sum exp(x), whatever m is: sums in which a shift cancels.

The usual way not to overflow takes out the maximum first. By itself x - m is of no curvature. So in a sum with a
log-sum-exp (or a maximum) of x - m and with m, both are replaced by the same function of x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.curvature.call import Call
from convexnet.curvature.facts import Fact, as_fact
from convexnet.curvature.fields import where_any
from convexnet.curvature.patterns.expressions import VIEWS, made_by, views_of
from convexnet.curvature.rules.linear import total

TERMS = 8
"""The longest sum that is looked at."""
AFTER_EXP = frozenset(("sum", "mean", "mul", "div", "matmul", "linear", *VIEWS))
"""Operators of degree one, with one varying argument, between the exponential and the logarithm."""

Term = tuple[Fact, int]


def unshifted(call: Call, result: Fact) -> Fact:
    """The result of a sum whose rule lost it, if a shift cancels in it."""
    if call.name not in ("add", "sub") or not where_any(result.unknown):
        return result
    terms = terms_of([(as_fact(call.args[0]), 1), (as_fact(call.args[1]), 1 if call.name == "add" else -1)], call)
    for i, (whole, sign) in enumerate(terms):
        for shift_at, (shift, other) in enumerate(terms):
            if shift_at == i or other != sign:
                continue
            found = without(whole, shift) if tuple(whole.shape) == tuple(shift.shape) else None
            if found is None:
                continue
            rest = [term for place, term in enumerate(terms) if place not in (i, shift_at)]
            again = total([(found, sign), *rest], call.shape)
            if not where_any(again.unknown):
                return replace(again, rows=result.rows)
    return result


def terms_of(terms: Sequence[Term], call: Call) -> list[Term]:
    """The terms of a sum of sums, as long as these have the shape of the whole."""
    if call.arg(2, "alpha", 1) != 1:
        return []
    found: list[Term] = []
    for fact, sign in terms:
        inner = made_by(fact, "add", "sub", "neg")
        if inner is None or (inner.name != "neg" and inner.arg(2, "alpha", 1) != 1) or len(found) > TERMS:
            found.append((fact, sign))
        elif inner.name == "neg":
            found += terms_of([(inner.x, -sign)], call)
        else:
            second = sign if inner.name == "add" else -sign
            found += terms_of([(as_fact(inner.args[0]), sign), (as_fact(inner.args[1]), second)], call)
    return found


def without(whole: Fact, shift: Fact) -> Fact | None:
    """F(x) for F(x - m), where F is a maximum or a log-sum-exp, and m is constant over what F runs over."""
    chain: list[Call] = []
    while True:
        call = made_by(whole, "log", "logsumexp", "amax", "exp", *AFTER_EXP)
        if call is None:
            break
        moving = [fact for fact in call.facts() if not fact.constant]
        if len(moving) != 1 or moving[0] is not call.args[0]:
            return None
        chain.insert(0, call)
        whole = moving[0]
    names = [call.name for call in chain if call.name not in VIEWS]
    if names not in (["logsumexp"], ["amax"]) and not (
        len(names) >= 3 and names[0] == "exp" and names[-1] == "log" and set(names[1:-1]) <= AFTER_EXP
    ):
        return None
    x = difference(whole, shift, chain)
    return None if x is None else replayed(chain, x)


def difference(fact: Fact, shift: Fact, chain: Sequence[Call]) -> Fact | None:
    """x, if a tensor is x - m for the m at hand, and if m is constant over the dimensions that are summed over."""
    call = made_by(fact, "sub")
    if call is None or call.arg(2, "alpha", 1) != 1 or not isinstance(call.args[1], Fact):
        return None
    x, m = call.args[:2]
    if not isinstance(x, Fact) or views_of(m) is not views_of(shift) or tuple(x.shape) != tuple(call.shape):
        return None
    rank = len(call.shape)
    if len(m.shape) != rank:
        return None
    over = [call_ for call_ in chain if call_.name in ("sum", "mean", "logsumexp", "amax", "matmul", "linear")]
    if (
        len(over) != 1
        or over[0].name in ("matmul", "linear")
        or any(c.name in VIEWS for c in chain[: chain.index(over[0])])
    ):
        return None
    dims = over[0].arg(1, "dim")
    if dims is None:
        return None
    places = {int(d) % rank for d in ([dims] if isinstance(dims, int) else dims)}
    kept = [d for d in range(rank) if d not in places]
    fits = all(m.shape[d] == 1 for d in places) and all(m.shape[d] == call.shape[d] for d in kept)
    return x if fits else None


def replayed(chain: Sequence[Call], x: Fact) -> Fact | None:
    """The calls of a chain, on another argument."""
    from convexnet.curvature.table import TABLE

    for call in chain:
        result = TABLE[call.name].rule(replace(call, args=(x, *call.args[1:])))
        if not isinstance(result, Fact):
            return None
        x = result
    return x

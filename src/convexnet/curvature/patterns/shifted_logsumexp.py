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
from convexnet.curvature.patterns.expressions import Made, made_as, made_by, views_of
from convexnet.curvature.rules.linear import sum_of_facts
from convexnet.curvature.rules.reductions import Reduction

TERMS = 8
"""The longest sum that is looked at."""
Term = tuple[Fact, int]


def cancel_shift(call: Call, result: Fact) -> Fact:
    """The result of a sum whose rule lost it, if a shift cancels in it."""
    if call.name not in ("add", "sub") or not where_any(result.unknown):
        return result
    terms = terms_of([(as_fact(call.args[0]), 1), (as_fact(call.args[1]), 1 if call.name == "add" else -1)], call)
    for i, (whole, sign) in enumerate(terms):
        for shift_at, (shift, other) in enumerate(terms):
            if shift_at == i or other != sign:
                continue
            found = without_shift(whole, shift) if tuple(whole.shape) == tuple(shift.shape) else None
            if found is None:
                continue
            rest = [term for place, term in enumerate(terms) if place not in (i, shift_at)]
            again = sum_of_facts([(found, sign), *rest], call.shape)
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


def without_shift(whole: Fact, shift: Fact) -> Fact | None:
    """F(x) for F(x - m), where F is a maximum or a log-sum-exp, and m is constant over what F runs over."""
    chain: list[Made] = []
    while made_as(whole, is_step_of_logsumexp) is not None:
        made: Made = whole.made
        moving = [fact for fact in made.call.facts() if not fact.constant]
        if len(moving) != 1 or moving[0] is not made.call.args[0]:
            return None
        chain.insert(0, made)
        whole = moving[0]
    steps = [made for made in chain if not made.row.is_view]
    names = [made.call.name for made in steps]
    if names not in (["logsumexp"], ["amax"]) and not (
        names[:1] == ["exp"] and names[-1] == "log" and all(map(is_of_degree_one, steps[1:-1]))
    ):
        return None
    x = minuend_of_shift(whole, shift, chain)
    return None if x is None else replay_calls(chain, x)


def is_step_of_logsumexp(made: Made) -> bool:
    """Whether a call may stand in a log-sum-exp that is written out, or is one, or a maximum."""
    return made.call.name in ("exp", "log") or is_reduction(made) or is_of_degree_one(made)


def is_of_degree_one(made: Made) -> bool:
    """Whether a call is of degree one, and may stand between the exponential and the logarithm."""
    return made.row.is_view or (made.row.is_affine and is_reduction(made)) or made.call.name in ("mul", "div")


def is_reduction(made: Made) -> bool:
    """Whether a call is over dimensions."""
    return isinstance(made.row.rule, Reduction)


def minuend_of_shift(fact: Fact, shift: Fact, chain: Sequence[Made]) -> Fact | None:
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
    at = [place for place, made in enumerate(chain) if is_reduction(made)]
    if len(at) != 1 or any(made.row.is_view for made in chain[: at[0]]):
        return None
    dims = chain[at[0]].call.arg(1, "dim")
    if dims is None:
        return None
    places = {int(d) % rank for d in ([dims] if isinstance(dims, int) else dims)}
    kept = [d for d in range(rank) if d not in places]
    fits = all(m.shape[d] == 1 for d in places) and all(m.shape[d] == call.shape[d] for d in kept)
    return x if fits else None


def replay_calls(chain: Sequence[Made], x: Fact) -> Fact | None:
    """The calls of a chain, on another argument."""
    for made in chain:
        result = made.row.rule(replace(made.call, args=(x, *made.call.args[1:])))
        if not isinstance(result, Fact):
            return None
        x = result
    return x

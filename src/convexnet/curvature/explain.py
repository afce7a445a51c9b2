"""Words for a step that loses convexity: why the composition theorem does not apply, and what to do.

A reason is about the call at hand: what the operator is (with these settings, on the range its argument is known to lie
in), and what its arguments are. It is chosen by what is known of them, never by the operator's name alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.explain_weights import (
    SEPARATE,
    curvature_in_words,
    curvatures_in_words,
    explain_weights,
    index_in_words,
    weights_of,
)
from convexnet.curvature.facts import AFFINE, CONSTANT, CONVEX, INF, Fact, as_fact
from convexnet.curvature.fields import core, where_any
from convexnet.curvature.row import Joint, Sum
from convexnet.curvature.rules.arithmetic import Power, clamp_above, clamp_below
from convexnet.curvature.rules.opaque_operators import Opaque
from convexnet.curvature.rules.pointwise import Pointwise, Profile, is_outside
from convexnet.curvature.rules.pointwise_with_settings import clamp, power
from convexnet.curvature.rules.reductions import Reduction, Window
from convexnet.curvature.rules.undefined import Beyond
from convexnet.curvature.table import ACTIVATION_REMEDY, row_of

POLE = Refusal(
    "its argument does not depend on the input, but may be 0, where the result is infinite and of either sign",
    "keep it away from 0, as softplus(c) + 1 or exp(c) does",
)
KEEP = "give it an affine argument, or one of the curvature that it preserves"


def explain(call: Call) -> Refusal:
    """The reason and the remedy for a call whose result is unknown though its arguments were not."""
    row = row_of(call.name)
    rule = row.rule
    if not curvatures_in_words(call):
        return explain_constants(call)
    if isinstance(rule, Opaque):
        return explain_opaque(call, rule)
    profile, x = function_of(call)
    if profile is not None and x is not None:
        return explain_function(call.name, profile, x)
    if row.requires == "slope":
        return explain_prelu(call)
    if row.requires == "recurrent signs":
        return explain_rnn(call)
    if row.requires == "share" and as_fact(call.args[2]).value is None:
        return Refusal(
            f"its weight is not known to lie in [0, 1], and its ends are {curvatures_in_words(call)}",
            "use a constant weight",
        )
    weight = weights_of(call)
    if weight is not None:
        return explain_weights(call, weight)
    if isinstance(rule, (Reduction, Window)):
        return explain_reduction(call, rule)
    if isinstance(rule, Sum):
        return Refusal(
            "it adds a convex and a concave quantity, or subtracts two of the same curvature, and the result is "
            "neither",
            "let at most one of the two be non-affine, or add quantities of one curvature",
        )
    if isinstance(rule, Joint):
        return Refusal(
            f"{call.name} of {curvatures_in_words(call)} may be neither: it is {rule.curvature} and {rule.moves}", KEEP
        )
    return Refusal(
        f"{call.name} of {curvatures_in_words(call)} is not covered by the composition theorem",
        "combine convex quantities only by sums, maxima and non-negative multiples",
    )


# --- functions of one number -----------------------------------------------------------------------------------------


def function_of(call: Call) -> tuple[Profile | None, Fact | None]:
    """The function of one number that a call is, and its argument."""
    row = row_of(call.name)
    if isinstance(row.rule, Pointwise):
        return row.rule.of(call), call.x
    if isinstance(row.rule, Power):
        return power(row.rule.exponent), call.x
    if call.name == "pow" and isinstance(call.args[0], Fact):
        exponent = number(call.args[1])
        return (None, None) if exponent is None else (power(exponent), call.x)
    if call.name == "mul" and len({id(fact) for fact in call.facts()}) == 1 and len(call.facts()) == 2:
        return power(2.0), call.x
    if call.name == "div" and as_fact(call.args[0]).constant and as_fact(call.args[1]).curvature != AFFINE:
        return power(-1.0), as_fact(call.args[1])
    if row.runs(clamp_below, clamp_above):
        names = ("min", "max") if call.name == "clamp" else (call.name.removeprefix("clamp_"),)
        ends = {name: call.arg(i + 1, name) for i, name in enumerate(names)}
        if not any(isinstance(end, Fact) for end in ends.values()):
            return clamp(ends.get("min"), ends.get("max")), call.x
    return None, None


def number(value: Any) -> float | None:
    """A Python number, or the one in a tensor of one element."""
    if isinstance(value, Fact):
        return None if value.value is None or value.value.numel() != 1 else float(value.value)
    return float(value)


def explain_function(name: str, profile: Profile, x: Fact) -> Refusal:
    """Why a function of one number breaks convexity at this argument."""
    called = {"div": "1/x", "mul": "x * x"}.get(name, name)
    low, high = float(core(x.lo).min()), float(core(x.hi).max())
    span = "" if (low, high) == (-INF, INF) else f" on [{low:.3g}, {high:.3g}]"
    row = row_of(name)
    if isinstance(row.undefined, Beyond) and low < row.undefined.start:
        start = f"{row.undefined.start:g}"
        known = f"nothing keeps its argument above {start}" if low == -INF else f"its argument may be {low:.3g}"
        return Refusal(
            f"{name} is a real number above {start} only, and {known}",
            "add a constant, or say with a domain how low the input may be",
        )
    not_concave, not_convex = where_any(is_outside(x, profile.concave)), where_any(is_outside(x, profile.convex))
    remedy = ACTIVATION_REMEDY if isinstance(row.rule, Pointwise) else KEEP
    if not_concave and not_convex:
        note = f": {profile.note}" if profile.note else ""
        return Refusal(f"{called} is neither convex nor concave{span}{note}", remedy)
    own = "concave" if not_convex else "convex" if not_concave else "affine"
    falls = where_any(is_outside(x, profile.rising))
    moves = "non-decreasing" if not falls else "not non-decreasing"
    reason = f"{called} is {own} and {moves}{span}, but its argument is {curvature_in_words(x)}, not affine"
    if remedy == KEEP:
        return Refusal(reason, KEEP)
    if falls and x.curvature == CONVEX and own == "convex":
        return Refusal(
            f"{reason}: where it decreases it makes a concave result of a convex argument",
            f"here, after a nonlinearity, an activation must not decrease: {ACTIVATION_REMEDY}",
        )
    return Refusal(reason, f"here, after a nonlinearity, {ACTIVATION_REMEDY}")


def explain_constants(call: Call) -> Refusal:
    """Why the result may vary although no argument does."""
    if row_of(call.name).undefined is not None:
        return POLE
    return Refusal(
        f"nothing is known of the values that {call.name} is applied to, though they do not depend on the input",
        "compute it from constants, or from inputs of known sign",
    )


def explain_opaque(call: Call, rule: Opaque) -> Refusal:
    """The reason of an operator about which nothing is claimed; it is about the first argument."""
    facts = call.facts()
    if rule.reason and not facts[0].constant:
        return Refusal(rule.reason, rule.remedy)
    return Refusal(
        f"{call.name} has a rule only where no argument but the first depends on the input",
        rule.remedy or "let only the first argument depend on the input",
    )


def explain_prelu(call: Call) -> Refusal:
    """PReLU at slopes that are known, or may be anything."""
    slope = call.args[1]
    if slope.value is None:
        wrong = "its slopes are not known to lie in [0, 1]"
    elif bool(((slope.value < 0) | (slope.value > 1)).any()):
        wrong = "a slope lies outside [0, 1]"
    else:
        bends = curvature_in_words(call.x)
        return Refusal(f"PReLU is convex and non-decreasing, but its argument is {bends}, not affine", KEEP)
    return Refusal(
        f"{wrong}, and PReLU is convex and non-decreasing only for slopes in between",
        "clamp the slopes to [0, 1], or use LeakyReLU",
    )


# --- functions of many numbers ---------------------------------------------------------------------------------------


def explain_reduction(call: Call, rule: Reduction | Window) -> Refusal:
    """Sums, averages, maxima and norms."""
    wrong = rule.allows(call) if isinstance(rule, Reduction) else ""
    if isinstance(rule, Window) and call.name.startswith("avg_pool") and call.arg(6, "divisor_override") is not None:
        wrong = "its divisor is not the size of the window"
    if wrong:
        return Refusal(wrong, "use an order from 1" if isinstance(rule, Reduction) else "leave out divisor_override")
    bends = curvature_in_words(call.x)
    if isinstance(rule, Window) and rule.signed:
        return Refusal(f"{call.name} is linear with coefficients of either sign, and its argument is {bends}", KEEP)
    if rule.curvature == "affine":
        return Refusal(f"{call.name} adds elements that are {bends}: the sum is neither", SEPARATE)
    moves = rule.moves if isinstance(rule, Reduction) else "up"
    how = {
        "up": "non-decreasing in every element",
        "by size": "increases with the absolute value of an element, so that it decreases where one is negative",
        "both": "may increase and decrease in every element",
    }[moves]
    low = "" if moves != "by size" else " and may be negative" if call.x.goes_below_zero else " and non-negative"
    remedy = KEEP if moves != "by size" else "give it an affine argument, or a convex one that is non-negative"
    return Refusal(f"{call.name} is {rule.curvature} and {how}, but its argument is {bends}{low}", remedy)


def explain_rnn(call: Call) -> Refusal:
    """Which of a ReLU RNN's weights are negative where they must not be: all but the first layer's input weights."""
    whole = isinstance(call.args[2], (list, tuple))
    flat: Sequence[Any] = call.args[2] if whole else call.args[2:]
    matrices = [w for w in flat if isinstance(w, Fact) and len(w.shape) == 2]
    directions = 2 if whole and call.args[7] else 1
    wrong: list[str] = []
    unsure = False
    for index, w in enumerate(matrices):
        layer, rest = divmod(index, 2 * directions)
        direction, recurrent = divmod(rest, 2)
        if layer == 0 and not recurrent and call.x.curvature in (CONSTANT, AFFINE):
            continue  # of an affine argument, any combination is affine
        name = f"weight_{'hh' if recurrent else 'ih'}" + (f"_l{layer}" if whole else "") + "_reverse" * direction
        if w.value is None:
            unsure = True
        elif bool((w.value < 0).any()):
            wrong.append(f"{int((w.value < 0).sum()):,} of {w.value.numel():,} entries of {name}")
    if call.x.curvature in (CONSTANT, AFFINE):
        remedy = "make the recurrent weights, and the input weights of every layer after the first, non-negative"
    else:
        remedy = "make all of its weights non-negative: its input is not affine"
    each = "each step sees a relu of the step before"
    if wrong:
        return Refusal(f"{each}, and {' and '.join(wrong)} are negative", remedy)
    if unsure:
        return Refusal(f"{each}, and its weights are not known to be non-negative", remedy)
    return Refusal(
        f"{each}, and its arguments are {curvatures_in_words(call)}", "start it from affine or convex quantities"
    )


def explain_turn(call: Call) -> Refusal:
    """Words for a step that makes concave elements of convex ones: no loss yet, but often the cause of a later one."""
    weight = weights_of(call)
    if weight is not None and weight.value is not None:
        count = int((weight.value < 0).sum())
        if count:
            return Refusal(
                f"{count:,} of {weight.value.numel():,} coefficients are negative (least "
                f"{float(weight.value.min()):.3g} at {index_in_words(weight.value)}), and its argument is "
                f"{curvatures_in_words(call)}: those elements are now concave, and the output needs them to be convex",
                "make the coefficients that meet non-affine elements non-negative",
            )
    return Refusal(
        f"{call.name} makes a concave result of a convex argument, and the output needs a convex one",
        "leave out the change of sign",
    )

"""Words for the coefficients of weighted linear maps: which have the wrong sign, and what they meet."""

from __future__ import annotations

from torch import Tensor

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import AFFINE, CONCAVE, CONSTANT, UNKNOWN, Fact
from convexnet.curvature.fields import where_any
from convexnet.curvature.table import row_of

SEPARATE = "keep the two kinds apart, or make all of them convex"


def curvatures_in_words(call: Call) -> str:
    """The curvatures of the arguments that vary."""
    found = dict.fromkeys(curvature_in_words(fact) for fact in call.facts() if fact.curvature != CONSTANT)
    if len(found) > 1:
        found.pop(AFFINE, None)  # an affine argument is never the obstacle
    return " and ".join(found)


def curvature_in_words(fact: Fact) -> str:
    return "partly convex and partly concave" if fact.curvature == UNKNOWN else fact.curvature


def weights_of(call: Call) -> Fact | None:
    """The coefficients of a weighted linear operator, where it has them."""
    row = row_of(call.name)
    if not (row.multiplies or row.divisor is not None):
        return None
    found = [call.args[place] for place in row.factors if place < len(call.args)]
    candidates = [part for value in found for part in (value if isinstance(value, (list, tuple)) else [value])]
    constants = [c for c in candidates if isinstance(c, Fact) and c.constant]
    return constants[-1] if constants else None


def explain_weights(call: Call, weight: Fact) -> Refusal:
    """How many coefficients have the wrong sign, and the worst of them."""
    bends = curvatures_in_words(call)
    if weight.value is None:
        return explain_unknown_weights(bends, weight)
    value = weight.value
    down = bends == CONCAVE
    wrong = value > 0 if down else value < 0
    count = int(wrong.sum())
    if count == 0:
        return Refusal(f"it adds quantities that are {bends}, and the sum is neither", SEPARATE)
    verb = "is" if count == 1 else "are"
    worst = float(value.max() if down else value.min())
    name, where = ("positive", -value) if down else ("negative", value)
    multiple = (
        "a positive multiple of a concave function stays concave, and the output needs a convex one"
        if down
        else "a negative multiple of a convex function is concave"
    )
    return Refusal(
        f"{count:,} of {value.numel():,} coefficients {verb} {name} ({'greatest' if down else 'least'} {worst:.3g} at "
        f"{index_in_words(where)}), and its argument is {bends}, not affine: {multiple}",
        "give it a convex argument" if down else "make the coefficients that meet non-affine elements non-negative",
    )


def explain_unknown_weights(bends: str, weight: Fact) -> Refusal:
    """Coefficients whose values are not known: parameters, other inputs, and what is computed from them."""
    signed = weight.goes_below_zero and weight.goes_above_zero and not weight.integral
    known = "of unknown sign" if signed else "whose value is not known"
    kind = "a boolean or an integer" if weight.integral else "a coefficient"
    if where_any(weight.rows):
        return Refusal(
            f"{kind} {known}, which depends on another input, multiplies a quantity that is {bends}, not affine",
            "keep it non-negative whatever that input is (softplus, exp, square)",
        )
    return Refusal(
        f"{kind} {known} multiplies a quantity that is {bends}, not affine",
        "keep it non-negative whatever the parameters are (softplus, exp, square); a weight that a parametrization "
        "computes can be plain again with torch.nn.utils.parametrize.remove_parametrizations",
    )


def index_in_words(value: Tensor) -> str:
    """The index of the smallest entry."""
    flat = int(value.reshape(-1).argmin())
    index: list[int] = []
    for length in reversed(value.shape):
        index.append(flat % length)
        flat //= length
    return "[" + ", ".join(map(str, reversed(index))) + "]"

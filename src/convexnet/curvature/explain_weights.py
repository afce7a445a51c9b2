"""Words for the coefficients of weighted linear maps: which have the wrong sign, and what they meet."""

from __future__ import annotations

from torch import Tensor

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import AFFINE, CONCAVE, CONSTANT, UNKNOWN, Fact, as_fact
from convexnet.curvature.fields import where_any

WEIGHTED = {
    "linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1, "conv_transpose1d": 1, "conv_transpose2d": 1,
    "conv_transpose3d": 1, "convolution": 1, "batch_norm": 1, "_native_batch_norm_legit_no_training": 1, "matmul": 1,
    "mm": 1, "bmm": 1, "mv": 1, "dot": 1, "outer": 1, "addmm": 2, "baddbmm": 2, "mul": 1, "div": 1, "einsum": 1,
}  # fmt: skip
EITHER_SIDE = ("matmul", "mm", "bmm", "mv", "dot", "outer", "mul", "addmm", "baddbmm")
"""Weighted operators whose coefficients may be on either side."""

SEPARATE = "keep the two kinds apart, or make all of them convex"


def joined(call: Call) -> str:
    """The curvatures of the arguments that vary."""
    found = dict.fromkeys(bend(fact) for fact in call.facts() if fact.curvature != CONSTANT)
    if len(found) > 1:
        found.pop(AFFINE, None)  # an affine argument stands in nobody's way
    return " and ".join(found)


def bend(fact: Fact) -> str:
    return "partly convex and partly concave" if fact.curvature == UNKNOWN else fact.curvature


def weights_of(call: Call) -> Fact | None:
    """The coefficients of a weighted linear operator, where it has them."""
    if call.name not in WEIGHTED:
        return None
    candidates = [call.args[WEIGHTED[call.name]]] if len(call.args) > WEIGHTED[call.name] else []
    if call.name == "einsum":
        candidates = list(call.args[1])
    if call.name in EITHER_SIDE:
        candidates = list(call.args)
    if call.name == "div" and as_fact(call.args[0]).constant:
        candidates = [call.args[0]]
    constants = [c for c in candidates if isinstance(c, Fact) and c.constant]
    return constants[-1] if constants else None


def of_weights(call: Call, weight: Fact) -> Refusal:
    """How many coefficients have the wrong sign, and the worst of them."""
    bends = joined(call)
    if weight.value is None:
        return of_unknown_weights(bends, weight)
    value = weight.value
    down = bends == CONCAVE
    wrong = value > 0 if down else value < 0
    count = int(wrong.sum())
    if count == 0:
        return Refusal(f"it adds up what is {bends}, and the sum is neither", SEPARATE)
    verb = "is" if count == 1 else "are"
    worst = float(value.max() if down else value.min())
    name, where, direction = ("positive", -value, "downwards") if down else ("negative", value, "upwards")
    other = "upwards" if direction == "downwards" else "downwards"
    turned = "keeps it so, and the output needs it upwards" if down else f"bends {other}"
    return Refusal(
        f"{count:,} of {value.numel():,} coefficients {verb} {name} ({'greatest' if down else 'least'} {worst:.3g} at "
        f"{place(where)}), and its argument is {bends}, not affine: a {name} multiple of what bends {direction} "
        f"{turned}",
        "bring it a convex argument" if down else "make the coefficients that meet non-affine elements non-negative",
    )


def of_unknown_weights(bends: str, weight: Fact) -> Refusal:
    """Coefficients whose values are not known: parameters, other inputs, and what is computed from them."""
    signed = weight.goes_below_zero and weight.goes_above_zero and not weight.integral
    known = "of unknown sign" if signed else "whose value is not known"
    kind = "a truth value or integer" if weight.integral else "a coefficient"
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


def place(value: Tensor) -> str:
    """The index of the smallest entry."""
    flat = int(value.reshape(-1).argmin())
    index: list[int] = []
    for length in reversed(value.shape):
        index.append(flat % length)
        flat //= length
    return "[" + ", ".join(map(str, reversed(index))) + "]"

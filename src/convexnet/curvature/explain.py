"""Words for a step that loses convexity: why the composition theorem does not apply, and what to do."""

from __future__ import annotations

from torch import Tensor

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import CONSTANT, CONVEX, UNKNOWN, Fact
from convexnet.curvature.fields import core, where_any
from convexnet.curvature.opaque import Opaque
from convexnet.curvature.pointwise import Pointwise, Profile, outside
from convexnet.curvature.reductions import Reduction, Window
from convexnet.curvature.table import ACTIVATION_REMEDY, TABLE

WEIGHTED = {
    "linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1, "conv_transpose1d": 1, "conv_transpose2d": 1,
    "conv_transpose3d": 1, "convolution": 1, "batch_norm": 1, "_native_batch_norm_legit_no_training": 1, "matmul": 1,
    "mm": 1, "bmm": 1, "mv": 1, "addmm": 2, "baddbmm": 2, "mul": 1, "div": 1, "einsum": 1, "prelu": 1,
}  # fmt: skip


def explain(call: Call) -> Refusal:
    """The reason and the remedy for a call whose result is unknown though its arguments were not."""
    rule = TABLE[call.name]
    if isinstance(rule, Opaque):
        return Refusal(rule.reason, rule.remedy)
    if isinstance(rule, Pointwise):
        return of_function(call.name, rule.of(call), call.x)
    if call.name == "prelu":
        return Refusal(
            "a slope lies outside [0, 1], and PReLU is convex and non-decreasing only for slopes in between",
            "clamp the slopes to [0, 1], or use LeakyReLU",
        )
    weight = weights_of(call)
    if weight is not None:
        return of_weights(call, weight)
    if isinstance(rule, (Reduction, Window)):
        shape = {"up": "convex", "down": "concave", "straight": "linear with coefficients of either sign"}[rule.bends]
        return Refusal(
            f"{call.name} is {shape} here, and its argument is {joined(call)}",
            "make the argument affine, or convex where the operator is convex and rises with it",
        )
    if call.name in ("add", "sub", "rsub"):
        return Refusal(
            "it adds what bends upwards to what bends downwards, or subtracts two that bend alike: the sum is neither",
            "let at most one of the two be non-affine, or add quantities of one curvature",
        )
    return Refusal(
        f"{call.name} of {joined(call)} is covered by no case of the composition theorem",
        "bring convex quantities together only by sums, maxima and non-negative multiples",
    )


def joined(call: Call) -> str:
    """The curvatures of the arguments that vary."""
    found = dict.fromkeys(
        ("partly convex and partly concave" if fact.curvature == UNKNOWN else fact.curvature)
        for fact in call.facts()
        if fact.curvature != CONSTANT
    )
    return " and ".join(found)


def of_function(name: str, profile: Profile, x: Fact) -> Refusal:
    """Why a function of one number breaks convexity at this argument."""
    bends_up, bends_down = where_any(outside(x, profile.concave)), where_any(outside(x, profile.convex))
    span = f"[{float(core(x.lo).min()):.3g}, {float(core(x.hi).max()):.3g}]"
    if bends_up and bends_down:
        note = f": {profile.note}" if profile.note else ""
        return Refusal(f"{name} is neither convex nor concave on {span}{note}", ACTIVATION_REMEDY)
    own = "concave" if bends_down else "convex"
    falls = where_any(outside(x, profile.rising))
    moves = "non-decreasing" if not falls else "not non-decreasing"
    bends = "partly convex and partly concave" if x.curvature == UNKNOWN else x.curvature
    reason = f"{name} is {own} and {moves} on {span}, but its argument is {bends}, not affine"
    if falls and x.curvature == CONVEX:
        return Refusal(
            f"{reason}: where it falls it turns what bends upwards into what bends downwards",
            f"after the first nonlinearity an activation must not decrease: {ACTIVATION_REMEDY.removeprefix('use ')}",
        )
    return Refusal(reason, f"after the first nonlinearity: {ACTIVATION_REMEDY}")


def turned(call: Call) -> Refusal:
    """Words for a step that makes concave elements of convex ones: no loss yet, but often the cause of a later one."""
    weight = weights_of(call)
    if weight is not None and weight.value is not None:
        count = int((weight.value < 0).sum())
        if count:
            return Refusal(
                f"{count:,} of {weight.value.numel():,} coefficients are negative (least "
                f"{float(weight.value.min()):.3g} at {place(weight.value)}), and its argument is "
                f"{joined(call)}: those elements now bend downwards, and a later step needs them to bend upwards",
                "make the coefficients that meet non-affine elements non-negative",
            )
    return Refusal(
        f"{call.name} turns what bends upwards into what bends downwards, and a later step needs it upwards",
        "leave out the change of sign",
    )


def weights_of(call: Call) -> Fact | None:
    """The coefficients of a weighted linear operator, where it has them."""
    if call.name not in WEIGHTED:
        return None
    candidates = [call.args[WEIGHTED[call.name]]] if len(call.args) > WEIGHTED[call.name] else []
    if call.name == "einsum":
        candidates = list(call.args[1])
    if call.name in ("matmul", "mm", "bmm", "mul", "addmm", "baddbmm"):
        candidates = list(call.args)
    constants = [c for c in candidates if isinstance(c, Fact) and c.constant and not c.integral]
    return constants[-1] if constants else None


def of_weights(call: Call, weight: Fact) -> Refusal:
    """How many coefficients have the wrong sign, and the worst of them."""
    bends = joined(call)
    wrong = "negative" if bends != "concave" else "of mixed sign"
    if weight.value is None:
        return Refusal(
            f"a coefficient of unknown sign multiplies a quantity that is {bends}, not affine",
            "keep it non-negative for all parameters (softplus, exp, square), or certify at given weights",
        )
    value = weight.value
    negative = value < 0
    count, least = int(negative.sum()), float(value.min())
    if count == 0:
        return Refusal("its argument holds both convex and concave elements, and their sum is neither", "separate them")
    where = place(value)
    return Refusal(
        f"{count:,} of {value.numel():,} coefficients are {wrong} (least {least:.3g} at {where}), and its argument is "
        f"{bends}, not affine: a negative multiple of what bends upwards bends downwards",
        "make the coefficients that meet non-affine elements non-negative",
    )


def place(value: Tensor) -> str:
    """The index of the smallest entry."""
    flat = int(value.reshape(-1).argmin())
    index: list[int] = []
    for length in reversed(value.shape):
        index.append(flat % length)
        flat //= length
    return "[" + ", ".join(map(str, reversed(index))) + "]"

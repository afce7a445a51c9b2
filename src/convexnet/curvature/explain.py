"""Words for a step that loses convexity: why the composition theorem does not apply, and what to do."""

from __future__ import annotations

from torch import Tensor

from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import CONCAVE, CONSTANT, CONVEX, INF, UNKNOWN, Fact
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
    if call.name.startswith("rnn_relu"):
        return of_rnn(call)
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
    low, high = float(core(x.lo).min()), float(core(x.hi).max())
    span = "" if (low, high) == (-INF, INF) else f" on [{low:.3g}, {high:.3g}]"
    if bends_up and bends_down:
        note = f": {profile.note}" if profile.note else ""
        return Refusal(f"{name} is neither convex nor concave{span}{note}", ACTIVATION_REMEDY)
    own = "concave" if bends_down else "convex"
    falls = where_any(outside(x, profile.rising))
    moves = "non-decreasing" if not falls else "not non-decreasing"
    bends = "partly convex and partly concave" if x.curvature == UNKNOWN else x.curvature
    reason = f"{name} is {own} and {moves}{span}, but its argument is {bends}, not affine"
    if falls and x.curvature == CONVEX:
        return Refusal(
            f"{reason}: where it falls it turns what bends upwards into what bends downwards",
            f"here, after a nonlinearity, an activation must not decrease: {ACTIVATION_REMEDY}",
        )
    return Refusal(reason, f"here, after a nonlinearity, {ACTIVATION_REMEDY}")


def turned(call: Call) -> Refusal:
    """Words for a step that makes concave elements of convex ones: no loss yet, but often the cause of a later one."""
    weight = weights_of(call)
    if weight is not None and weight.value is not None:
        count = int((weight.value < 0).sum())
        if count:
            return Refusal(
                f"{count:,} of {weight.value.numel():,} coefficients are negative (least "
                f"{float(weight.value.min()):.3g} at {place(weight.value)}), and its argument is "
                f"{joined(call)}: those elements now bend downwards, and the output needs them to bend upwards",
                "make the coefficients that meet non-affine elements non-negative",
            )
    return Refusal(
        f"{call.name} turns what bends upwards into what bends downwards, and the output needs it upwards",
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


def of_rnn(call: Call) -> Refusal:
    """Which of a ReLU RNN's weights are negative where they must not be: all but the first layer's input weights."""
    flat = call.args[2] if isinstance(call.args[2], (list, tuple)) else call.args[2:]
    matrices = [w for w in flat if isinstance(w, Fact) and len(w.shape) == 2 and w.value is not None]
    names = [f"weight_{kind}_l{layer}" for layer in range(len(matrices)) for kind in ("ih", "hh")]
    wrong = [
        f"{int((w.value < 0).sum()):,} of {w.value.numel():,} entries of {name}"
        for name, w in list(zip(names, matrices, strict=False))[1:]
        if w.value is not None and bool((w.value < 0).any())
    ]
    return Refusal(
        f"each step sees a relu of the step before, and {' and '.join(wrong)} are negative"
        if wrong
        else "each step sees a relu of the step before, and its recurrent weights may be negative",
        "make the recurrent weights, and the input weights of every layer after the first, non-negative",
    )


def of_weights(call: Call, weight: Fact) -> Refusal:
    """How many coefficients have the wrong sign, and the worst of them."""
    bends = joined(call)
    if weight.value is None:
        return Refusal(
            f"a coefficient of unknown sign multiplies a quantity that is {bends}, not affine",
            "keep it non-negative whatever the parameters are (softplus, exp, square); a weight that a parametrization "
            "computes can be plain again with torch.nn.utils.parametrize.remove_parametrizations",
        )
    value = weight.value
    down = bends == CONCAVE
    wrong = value > 0 if down else value < 0
    count = int(wrong.sum())
    if count == 0:
        return Refusal("its argument holds both convex and concave elements, and their sum is neither", "separate them")
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


def place(value: Tensor) -> str:
    """The index of the smallest entry."""
    flat = int(value.reshape(-1).argmin())
    index: list[int] = []
    for length in reversed(value.shape):
        index.append(flat % length)
        flat //= length
    return "[" + ", ".join(map(str, reversed(index))) + "]"

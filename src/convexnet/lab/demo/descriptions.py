"""Describe in words how the networks of the demo were made and trained, by the options that were chosen."""

from __future__ import annotations

from collections.abc import Sequence

from convexnet.lab.demo.contest import RECIPE, Run
from convexnet.lab.demo.narrative import percent, pick
from convexnet.lab.models.convex import EPSILON, Convex
from convexnet.lab.training.recipes import Recipe

OVERWRITTEN = {
    "exponentiate": f"are overwritten by exp(w − {EPSILON:g}) where they are negative",
    "clip": "are set to 0 where they are negative",
    "absolute": "change their sign where they are negative",
    "shift": "are raised, tensor by tensor, by as much as the least of them lies below 0",
}
COMPUTED = {"softplus": "log(1 + exp(v))", "exp": "exp(v)"}

DRAWN = {
    "paper": f"by Glorot’s uniform distribution, the negative ones replaced by exp(w − {EPSILON:g})",
    "lognormal": "from the log-normal distribution of Hoedt and Klambauer (2023)",
    "identity": "close to the identity, with small positive noise",
}

WHITENED = {
    "standard": "(x − mean) / √(variance + ε), pixel by pixel",
    "zca": "ZCA, (x − mean) times (covariance + ε)^(−1/2)",
}


def factor(widening: float | str) -> str:
    """A factor as it is written.

    Example:
        >>> factor(2.0), factor(1.5), factor("signs")
        ('×2', '×1.5', 'signs')
    """
    return widening if isinstance(widening, str) else f"×{widening:g}"


def options(ordinary: Recipe, convex: Recipe) -> str:
    """The convex network in one line for the terminal: its method, and everything that is not the default."""
    how = convex.convex
    said = [f"method {how.method}"]
    if how.widen_first is not None:
        said.append(f"first layer {factor(how.widen_first)}")
    if how.init is not None:
        said.append(f"start {how.init}")
    if how.free_head:
        said.append("free head")
    if convex.normalise != RECIPE.normalise:
        said.append(f"inputs whitened ({convex.normalise}, ε {convex.epsilon:g})")
    if convex.decay != 1:
        said.append(f"learning rate falling to {percent(convex.decay)} (NN: {percent(ordinary.decay)})")
    if how.free_gamma:
        said.append("BatchNorm's scales free, so that nothing keeps it convex")
    return f"The {'constrained' if how.free_gamma else 'convex'} network: {', '.join(said)}."


def command(recipe: Recipe, seed: int, full: bool) -> str:
    """What to type to measure the same again; `recipe` is the ordinary network's.

    Example:
        >>> from convexnet.lab.demo.contest import asked
        >>> command(asked(Convex(method="clip", free_head=True)), seed=3, full=True)
        'convexnet demo --seed 3 --method clip --free-head'
    """
    how, default = recipe.convex, Convex()
    words = [f"convexnet demo --seed {seed}"]
    words += [f"--method {how.method}"] if how.method != default.method else []
    words += [f"--widen-first {factor(how.widen_first).lstrip('×')}"] if how.widen_first is not None else []
    words += [f"--init {how.init}"] if how.init is not None else []
    words += ["--free-head"] if how.free_head else []
    words += ["--free-gamma"] if how.free_gamma else []
    words += [f"--whiten {how.whiten}"] if how.whiten is not None else []
    words += [f"--decay {recipe.decay:g}"] if recipe.decay != 1 else []
    words += [] if full else ["--quick"]
    return " ".join(words)


def title(run: Run) -> str:
    """What its certificate is headed with."""
    return "Our network" if run.role == "ours" else f"The {run.kind} network"


def size(run: Run, ordinary: Run) -> str:
    """How the sizes of the two networks compare, for the page's first paragraph."""
    how = run.recipe.convex
    if how.widen_first is None:
        return "They have the same size and see"
    if isinstance(how.widen_first, str):
        return f"They have the same size, the {run.kind} network's first activation has both signs, and they see"
    width = ordinary.recipe.hidden[0]
    wide = round(width * how.widen_first)
    return (
        f"They have the same size, but for the first layer, which has {wide} units in the {run.kind} network "
        f"and {width} in the other, and see"
    )


def constraint(run: Run) -> str:
    """What sets the convex network apart, for the page's first paragraph; it goes on after "The convex network"."""
    how = run.recipe.convex
    where = "between its first layer and its head" if how.free_head else "after its first layer"
    signs = f"no weight {where} may be negative"
    if how.free_head:
        signs += ", the head counts with its weights less the least that any class has for the same unit"
    if run.kind == "constrained":
        return (
            f"follows a variant in which {signs}, but the scales of BatchNorm are free: nothing keeps it convex in its "
            "input. Its activation is ELU instead of ReLU."
        )
    return f"is kept convex in its input: {signs}, and its activation is ELU instead of ReLU."


def layers(run: Run) -> str:
    """What both networks are made of; `run` is the convex one."""
    recipe, how = run.recipe, run.recipe.convex
    width = recipe.hidden[0]
    said = f"{len(recipe.hidden)} hidden layers of {width}"
    if isinstance(how.widen_first, str):
        said += f" (the first activation of the {run.kind} one sees both signs)"
    elif how.widen_first is not None:
        said += f" (the first of the {run.kind} one: {round(width * how.widen_first)})"
    said += f", each linear → BatchNorm → ReLU (ordinary) or ELU ({run.kind}), linear head, softmax cross-entropy"
    if how.init is not None:
        said += f". The constrained weights of the {run.kind} network start anew, drawn {DRAWN[how.init]}"
    if recipe.normalise != RECIPE.normalise:
        said += (
            f". The {run.kind} network whitens its inputs by {WHITENED[recipe.normalise]}, ε = {recipe.epsilon:g}, "
            "with the mean and spread of the training images: a fixed affine step inside the network, and so in its "
            "certificate"
        )
    return said


def rates(runs: Sequence[Run]) -> str:
    """The learning rates and what becomes of them."""
    ordinary, convex, control = (pick(runs, role, wrong=True) for role in ("ordinary", "paper", "control"))
    said = f"learning rate {convex.recipe.learning_rate:g} (control run {control.recipe.learning_rate:g})"
    if ordinary.recipe.decay != 1:
        said += (
            f", multiplied by the same factor after every epoch so that it falls to {percent(ordinary.recipe.decay)} "
            f"of that for the ordinary network and, half as fast, to {percent(convex.recipe.decay)} for the "
            f"{convex.kind} one"
        )
    return said


def rule(run: Run) -> str:
    """How the signs of the convex network's weights are kept."""
    how = run.recipe.convex
    where = "between its first layer and its head" if how.free_head else "after its first layer"
    scales = "BatchNorm’s scales left free" if how.free_gamma else "BatchNorm’s scales included"
    if how.method in COMPUTED:
        said = f"are computed as {COMPUTED[how.method]} from free numbers v, {scales}"
    else:
        said = f"{OVERWRITTEN[how.method]}, after every step, {scales}"
    head = "; the head’s are free, and it subtracts the least of each column from them" if how.free_head else ""
    return f"the {run.kind} network’s weights {where} {said}{head}"

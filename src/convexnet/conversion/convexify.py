"""`convexify`: an ordinary network becomes one whose outputs are convex in its inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as replaced
from typing import Literal

from torch import Tensor, nn

from convexnet.choices import HEADS, INITS, NORMS, ActivationName, HeadName, InitName, MethodName, NormName
from convexnet.constraints.constrain import remember_constraint
from convexnet.constraints.required_signs import intervals_for
from convexnet.constraints.sets import method_of
from convexnet.conversion.batchnorm_statistics import (
    Probe,
    estimate_statistics,
    find_overflow,
    inputs_of_norms,
    probe_of,
)
from convexnet.conversion.changes import with_module_at
from convexnet.conversion.head import free_head
from convexnet.conversion.rewrites import ACTIVATIONS, EXCHANGED, SQUASHING, Rewriter, Seen, watch
from convexnet.conversion.widen import widen_first as widen
from convexnet.curvature.arguments import as_example, copy_module, two_rows, unwrap
from convexnet.curvature.findings import Finding
from convexnet.curvature.tracing.trace import TRACING, trace
from convexnet.curvature.tracing.traceable_models import check_modules, check_tensors
from convexnet.errors import NotCertified, meant
from convexnet.initialise import initialise
from convexnet.memory import CHANGES, ONLY, PART, part_of, recall, remember_example


def convexify(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    *,
    method: MethodName = "exponentiate",
    epsilon: float = 5.0,
    activation: ActivationName | None = "elu",
    norm: NormName = "batch",
    replace: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]] = {},
    head: HeadName = "nonnegative",
    widen_first: float | Literal["signs"] | None = None,
    init: InitName | None = None,
    only: str | None = None,
    wrt: int | Sequence[int] | None = None,
) -> nn.Module:
    """Return an input-output-convex (IOC) copy of a network; the network itself is not changed.

    Activations and norms of the sample are exchanged, then the parameters that must keep a sign are found and brought
    there, as by `constrain`. Weights are copied, not trained again: **accuracy is not preserved**, and a warning says
    so. To train the result and keep it convex: `constrain(ioc, example).attach(optimizer)`.

    A BatchNorm behind weights that were changed gets new running statistics, with which the result can be evaluated at
    once: those of the example where it looks like data, else of random inputs in its shape. They are a start. On data,
    `torch.optim.swa_utils.update_bn(loader, ioc)` estimates them all in one call; do that before an evaluation, for
    running averages that lag a little in every layer are far off in the last one (see the page on training).

    Args:
        model: a network as torchvision, timm or you write it, made of modules. Activations called as functions inside a
            `forward` cannot be exchanged, and are reported with their line.
        example: a tensor (B, ...) or tuple of positional tensors, as for `certify`. Of 16 rows or more, which are not
            all the same, BatchNorm's statistics are taken too (see below).
        method, epsilon: how the constraint is kept, as for `constrain`.
        activation: of the new network: "elu" (the paper's), "celu", "softplus", "leaky_relu" or "relu"; every
            activation module becomes this one, except PReLU, whose slope is constrained. None: those that are convex
            and non-decreasing stay, and others become ELU.
        norm: what takes the place of LayerNorm, GroupNorm, InstanceNorm and RMSNorm: "batch" (BatchNorm over the same
            features, with the old scale and shift) or "affine" (scale and shift alone).
        replace: factories by class, as {SqueezeExcitation: convexnet.nn.PooledSum.like}; subclasses count.
        head: "nonnegative", or "free": the last linear layer keeps weights V of any sign and computes with
            V - min_k V, which leaves every softmax and argmax unchanged.
        widen_first: multiplies the units of the first layer, the only one with free weights; the paper uses 2. Or
            "signs": the first activation becomes its values at a and at −a (`nn.BothSigns`), for which no layer needs
            new weights of its own; the next layers get columns for them, of zeros where `init` draws none.
        init: "paper", "lognormal" or "identity" draws the constrained layers anew; None copies their weights.
        only: the path of a submodule, if the output shall be convex in *its* input: a head alone, say, in the features
            that it is given. Certificates of the model and of the part say so.
        wrt: the inputs to be convex in, as for `certify`.

    Returns:
        A new module, in the same mode as the old one, proved convex for all values of its constrained parameters.

    Raises:
        NotCertified: something has no convex rewrite (attention, gates, a functional activation): path, source line,
            operator, reason and remedy of each.
        ValueError, TypeError: wrong arguments; `head="free"` with fewer than two outputs or with something behind it.

    Warns:
        UserWarning: accuracy is not preserved; and if the outputs overflow, in which layer that begins.

    Source: Sivaprasad et al., The Curious Case of Convex Neural Networks (2021), sections 3 and 4.

    Example:
        >>> import torch
        >>> from convexnet import certify
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
        >>> ioc = convexify(net, torch.zeros(1, 4))
        >>> ioc
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): BatchNorm1d(8, ...)
          (2): ELU(alpha=1.0)
          (3): Linear(in_features=8, out_features=3, bias=True)
        )
        >>> certify(ioc, torch.zeros(1, 4)).convex
        True
    """
    check_choice("activation", activation, (*ACTIVATIONS, None))
    check_choice("norm", norm, NORMS)
    check_choice("head", head, HEADS)
    check_choice("init", init, (*INITS, None))
    if only == "":
        raise ValueError("only must name a submodule; leave it None to convert the whole model")
    how = method_of(method, epsilon)
    inputs = as_example(example)
    check_replacements(replace)
    with TRACING:  # while another thread traces the model, its tensors are others
        check_tensors(unwrap(model))
        check_modules(unwrap(model))
        whole = copy_module(unwrap(model))
    probe = probe_of(inputs)
    before = inputs_of_norms(whole, probe)
    target, seen = (whole, inputs) if only is None else part_of(whole, only, inputs)
    rewriter = Rewriter(activation, norm, dict(replace), watch_example(target, seen))
    new = rewriter.rewrite(target)
    found = rewriter.found
    unused = [kind.__name__ for kind in replace if kind not in rewriter.used]
    if unused:
        raise ValueError(f"replace names {', '.join(unused)}, and no module of {type(model).__name__} is one")
    program = trace(new, seen)
    if widen_first is not None:
        found += widen(new, program, widen_first)
        program = trace(new, seen)
    if head == "free":
        new, change = free_head(new, program)
        found.append(change)
        program = trace(new, seen)
    whole = with_module_at(whole, only or "", new)
    try:
        intervals = intervals_for(program, new, wrt)
    except NotCertified as error:
        raise advise_findings(error, new, rewriter) from None
    if init is not None:
        masks = {name: interval.lo == 0 for name, interval in intervals.items()}
        initialise(new, masks, init, activation or "elu")
    remember_constraint(new, intervals, how, seen, wrt)
    prefix = f"{only}." if only else ""
    whole.__dict__[CHANGES] = tuple(replaced(change, path=f"{prefix}{change.path}".rstrip(".")) for change in found) + (
        recall(whole, CHANGES) or ()
    )
    if only is None:
        whole.__dict__.pop(ONLY, None)
        for module in whole.modules():
            module.__dict__.pop(PART, None)
    else:
        new.__dict__[PART] = only, type(whole).__name__
        whole.__dict__[ONLY] = tuple(dict.fromkeys((*(recall(whole, ONLY) or ()), only)))
        remember_example(whole, inputs)
    renewed = estimate_statistics(whole, probe, before)
    warnings.warn(explain_lost_accuracy(renewed, probe), UserWarning, stacklevel=2)
    layer = find_overflow(whole, inputs, probe)
    if layer is not None:
        warnings.warn(explain_overflow(layer, init), UserWarning, stacklevel=2)
    return whole


def explain_lost_accuracy(renewed: int, probe: Probe) -> str:
    """What a conversion warns of: it says what became of BatchNorm's statistics where they are new."""
    text = "convexify projects weights that were trained without the constraint: accuracy is not preserved, train again"
    if not renewed:
        return text
    norms = f"{renewed} BatchNorm{'' if renewed == 1 else 's'} behind them {'has' if renewed == 1 else 'have'}"
    source = "the example" if probe.is_data else "random inputs in the example's shape"
    return (
        f"{text}; {norms} the statistics of {source}: before an evaluation estimate them on training data, "
        "torch.optim.swa_utils.update_bn(loader, model)"
    )


def explain_overflow(layer: str, init: str | None) -> str:
    """What to say of a network whose outputs overflow."""
    remedy = (
        "put a BatchNorm after its layers"
        if init in ("identity", "lognormal")
        else "init='identity' or init='lognormal' draws weights that preserve the scale of their inputs"
    )
    return (
        f"the converted network overflows, first in {layer or 'its own forward'}: its weights have one sign, so "
        f"that sums grow from layer to layer; {remedy}"
    )


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """A keyword must have one of its values."""
    if value not in allowed:
        near = meant(value, [word for word in allowed if isinstance(word, str)])
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}{near}")


def check_replacements(replace: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]]) -> None:
    """Classes of modules, each with a function of the old module."""
    if not isinstance(replace, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError("replace must be a mapping from classes to factories, as {nn.GELU: lambda old: nn.ELU()}")
    for kind, factory in replace.items():
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"replace must name classes of modules, not {kind!r}")
        own = isinstance(factory, type) and factory.__module__.startswith("torch.nn")
        if isinstance(factory, nn.Module) or not callable(factory) or own:
            name = getattr(factory, "__name__", type(factory).__name__)
            raise TypeError(
                f"replace[{kind.__name__}] must be a function of the old module, not {name}: lambda old: nn.{name}()"
            )


def watch_example(model: nn.Module, inputs: tuple[Tensor, ...]) -> Seen:
    """What the modules do on the example; if the forward fails, tracing will say why."""
    try:
        return watch(model, tuple(two_rows(tensor) for tensor in inputs))
    except Exception:
        return Seen()


# --- advice ----------------------------------------------------------------------------------------------------------

CLASSES = {
    kind.__name__.removesuffix("2d").lower(): f"nn.{kind.__name__}"
    for kind in (*EXCHANGED, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)
}
"""How a module is written that a function of its name has, without underscores."""


def is_channel_gate(module: nn.Module) -> bool:
    """Whether a module holds convolutions, and so has its channels in dimension 1, as `PooledSum` has."""
    return any(isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d) for part in module.modules())


def advise_findings(error: NotCertified, model: nn.Module, rewriter: Rewriter) -> NotCertified:
    """The same findings with what convexify can do about each."""
    findings = [f if not isinstance(f, Finding) else advise(f, model, rewriter.seen.last) for f in error.findings]
    head = f"{type(model).__name__} cannot be converted: {len(findings)} step{'' if len(findings) == 1 else 's'} in it "
    head += "that no rule replaces"
    return NotCertified("\n".join([head, *map(str, findings)]), tuple(findings))


def advise(finding: Finding, model: nn.Module, last: set[int]) -> Finding:
    """One finding, with a remedy in terms of `convexify`."""
    operator = finding.operator.removeprefix("aten.")
    try:
        module = model.get_submodule(finding.path)
    except AttributeError:
        return finding
    kind = type(module)
    place = f"{kind.__module__}.{kind.__qualname__}"
    if id(module) in last and (isinstance(module, SQUASHING) or "softmax" in operator):
        remedy = "it squashes the outputs themselves: return what goes into it, and leave the squashing to the loss"
        return replaced(finding, remedy=remedy)
    gated = operator in ("mul", "div") and "both depend" in finding.reason
    if finding.path and (gated or operator in ("sigmoid", "hardsigmoid")):
        pooled = f"replace={{{place}: convexnet.nn.PooledSum.like}} adds the pooled features instead, "
        removed = "{...: convexnet.nn.removed} removes the gate"
        if not is_channel_gate(module):
            pooled, removed = "", f"replace={{{place}: convexnet.nn.removed}} removes the gate"
        remedy = f"no rewrite of gates is assumed: {pooled}{removed}"
        return replaced(finding, remedy=remedy)
    written = CLASSES.get(operator.replace("_", ""))
    if written is not None and not isinstance(module, EXCHANGED):
        remedy = f"it is called as a function in the forward of {kind.__qualname__}: make it a module ("
        return replaced(finding, remedy=f"{remedy}{written}()), which convexify can replace")
    if finding.path:
        return replaced(finding, remedy=f"{finding.remedy}; or exchange the module: replace={{{place}: factory}}")
    return finding

"""`constrain`: find the parameters that must keep a sign, bring them there, and make the model remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.choices import MethodName
from convexnet.constraints.cone import Cone, existing_intervals
from convexnet.constraints.parametrised import check_computable, parametrise, unparametrise
from convexnet.constraints.required_signs import derive_intervals, explain_opposite_uses
from convexnet.constraints.sets import Interval, Method, is_computed, method_of
from convexnet.curvature.arguments import as_example, unwrap
from convexnet.errors import NotCertified
from convexnet.memory import CONSTRAINT, ONLY, part_of, recall, remember_example


@dataclass(frozen=True)
class Kept:
    """What a constrained module remembers: the interval of each constrained parameter, the method, and the inputs it
    is convex in."""

    intervals: Mapping[str, Interval]
    method: Method
    wrt: tuple[int, ...] | None = None


def constrain(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    method: MethodName | None = None,
    epsilon: float = 5.0,
    wrt: int | Sequence[int] | None = None,
) -> Cone:
    """Find the parameters that must keep a sign for a model to be convex in its input, and project them, in place.

    **Ordinary training without `attach` loses convexity**: `constrain(...).attach(optimizer)` projects after every
    step. The constraint stays with the model: `load_state_dict` projects again, and a deep copy is still constrained
    (attach a new optimiser to `constrain(copy, example)`). Constraining twice is constraining once.

    What is constrained is derived from the traced program: a weight must be non-negative where it meets something
    that is not affine in the input (columns of a weight after a concatenation are treated separately), non-positive
    where the result is subtracted, the slopes of a PReLU must lie in [0, 1]. Nothing else is touched.

    Args:
        model: a module made of layers that are convex for weights of the right sign.
        example: a tensor (B, ...) or tuple of positional tensors, as for `certify`.
        method: what happens to an entry w < 0 after a step: "exponentiate" (e^(w - epsilon)), "clip" (0), "absolute"
            (-w), "shift" (the tensor is lifted by its least entry). Or "softplus", "exp": the weight is computed from a
            free parameter and cannot leave, so that `attach` does nothing; parameters then change their names and their
            order, so constrain before making the optimiser, and again after unfreezing some. None: the method the model
            was constrained or converted with before, else "exponentiate".
        epsilon: of "exponentiate"; the papers use 5.
        wrt: the inputs to be convex in, as for `certify`. None: those it was constrained or converted for before, else
            all of them jointly.

    Returns:
        The cone of the constrained parameters. The model is convex for all its points, not only at present weights. Of
        a model that was converted with `convexify(only=...)` this is the cone of that submodule, which is convex in its
        own input; the cone says so, in `only` and when it is printed.

    Raises:
        NotCertified: some step cannot be made convex by the signs of parameters (a GELU, a LayerNorm), or one
            parameter would need both signs; nothing is changed.
        ValueError: unknown method, a frozen parameter violates the constraint, a parameter is sparse or quantised;
            nothing is changed.

    Source: Sivaprasad et al., The Curious Case of Convex Neural Networks (2021), algorithm 1 and appendix B.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 1)
        ... )
        >>> constrain(net, torch.zeros(1, 2), method="clip").parameters
        ('3.weight', '5.weight')
    """
    inner = unwrap(model)
    kept: Kept | None = recall(inner, CONSTRAINT)
    how = method_of(method, epsilon, kept.method if kept else method_inside(inner))
    if wrt is None and kept is not None:
        wrt = kept.wrt
    check_dense(inner)
    if is_computed(how) and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise ValueError(
            f"{type(model).__name__} manages the parameters, which {type(how).__name__.lower()} replaces: constrain "
            "the model before wrapping it"
        )
    only: tuple[str, ...] = recall(inner, ONLY) or ()
    if only:  # converted to be convex in the inputs of submodules
        parts = {path: constrain(*part_of(inner, path, as_example(example)), method, epsilon, wrt) for path in only}
        methods = {str(part.method): part.method for part in parts.values()}
        if len(methods) > 1:
            raise ValueError(
                f"{' and '.join(only)} were converted with {' and '.join(methods)}: name one method for both"
            )
        intervals = {f"{path}.{n}": interval for path, part in parts.items() for n, interval in part.intervals.items()}
        return Cone(inner, intervals, next(iter(methods.values())), only)
    return remember_constraint(inner, derive_intervals(inner, example, wrt), how, example, wrt)


def method_inside(model: nn.Module) -> Method | None:
    """The method of the submodules that are constrained, if they agree: wrapping a model does not forget it."""
    records: list[Kept] = [kept for module in model.modules() if (kept := recall(module, CONSTRAINT)) is not None]
    methods = {str(kept.method): kept.method for kept in records}
    return next(iter(methods.values())) if len(methods) == 1 else None


def remember_constraint(
    model: nn.Module,
    found: Mapping[str, Interval],
    method: Method,
    example: Tensor | Sequence[Tensor],
    wrt: int | Sequence[int] | None = None,
) -> Cone:
    """Bring parameters into their intervals and make the model remember them; they join those it keeps already.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> remember_constraint(
        ...     net, {"weight": Interval.above(0.0, torch.tensor([[True]]))}, method_of("clip", 5.0), torch.zeros(1, 2)
        ... )
        Cone(1 parameter of Linear, by Clip())
        >>> bool((net.weight >= 0).all())
        True
    """
    kept: Kept | None = recall(model, CONSTRAINT)
    intervals = existing_intervals(model, kept.intervals) if kept else {}
    for name, interval in found.items():
        intervals[name] = interval.meet(intervals[name]) if name in intervals else interval
        if intervals[name].conflict:
            raise NotCertified(explain_opposite_uses(name))
    if is_computed(method):
        check_computable(model, intervals)
    if kept and kept.method != method:
        unparametrise(model, intervals)
    cone = Cone(model, intervals, method)
    if is_computed(method):
        parametrise(model, intervals, method)
    cone.project()
    if kept is None:
        model.register_load_state_dict_post_hook(_after_load)
    inputs = None if wrt is None else ((wrt,) if isinstance(wrt, int) else tuple(wrt))
    model.__dict__[CONSTRAINT] = Kept(intervals, method, inputs)
    remember_example(model, example)
    return cone


def _after_load(module: nn.Module, _: Any) -> None:
    """Loaded weights are projected; the hook finds the constraint on the module, so that copies keep their own."""
    kept: Kept | None = recall(module, CONSTRAINT)
    if kept is not None:
        Cone(module, existing_intervals(module, kept.intervals), kept.method).project()


def check_dense(model: nn.Module) -> None:
    """Projections are written for dense parameters."""
    for name, parameter in model.named_parameters():
        if parameter.layout != torch.strided or parameter.is_quantized:
            kind = "quantised" if parameter.is_quantized else f"sparse ({parameter.layout})"
            raise ValueError(f"{name} is {kind}; constrain works on dense parameters: use .to_dense() or .dequantize()")

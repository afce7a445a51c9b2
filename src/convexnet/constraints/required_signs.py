"""The second walk: which parameters must lie in which intervals for a model to be convex.

Facts are carried forward with every trainable parameter of unknown value. Where an operator meets something that is not
affine, its coefficients must have a sign (`coefficient_signs`), the parameters they come from get that interval
(`to_parameters`), and the walk goes on under that assumption. So it proves convexity for *all* values the constrained
parameters may take: "all but the first layer" is a result here, not a recipe.

Nothing is required of coefficients whose products nobody reads (`elements_read`): of rows that a slice cuts off.

A coefficient may either keep curvature or turn it. It keeps it, unless the model then fails to come out convex: what a
tensor is needed as is then looked up from the outputs backwards, and the walk is made once more with that knowledge.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from convexnet.constraints.coefficient_signs import RequiredBounds, required_bounds
from convexnet.constraints.elements_read import find_elements_read, masks_of_partial_reads, nonzero_factors
from convexnet.constraints.sets import Interval
from convexnet.constraints.to_parameters import NUMBER, Known, Unreachable, constant_value, push_back
from convexnet.curvature import explain
from convexnet.curvature.arguments import chosen_inputs
from convexnet.curvature.call import Call, Refusal
from convexnet.curvature.facts import CONCAVE, CONVEX, UNKNOWN, Fact, constant
from convexnet.curvature.fields import aligned_rows, batched, compact, core, elementwise, uniform
from convexnet.curvature.findings import Finding, findings_of, is_proved, not_finite, state_findings
from convexnet.curvature.premises import placeholder_facts, unshared
from convexnet.curvature.table import is_batch_norm, row_of
from convexnet.curvature.tracing.graph import base_name, call_of_node, module_path, parents, source_line
from convexnet.curvature.tracing.trace import Program, Source, trace
from convexnet.curvature.walk import Walk, walk
from convexnet.errors import NotCertified


def derive_intervals(
    model: nn.Module, example: Tensor | Sequence[Tensor], wrt: int | Sequence[int] | None = None
) -> dict[str, Interval]:
    """The intervals that make a model convex for all values of its trainable parameters inside them, by name.

    Raises:
        NotCertified: no signs of the parameters make it convex, or two uses of one ask for opposite signs.
        ValueError: a parameter that must lie in an interval is frozen and does not.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 1))
        >>> for name, interval in derive_intervals(net, torch.zeros(1, 2)).items():
        ...     print(name, interval.lo.unique().tolist(), interval.hi.unique().tolist())
        2.weight [-inf] [1.0]
        3.weight [0.0] [inf]
    """
    return intervals_for(trace(model, example), model, wrt)


def intervals_for(program: Program, model: nn.Module, wrt: int | Sequence[int] | None = None) -> dict[str, Interval]:
    """`derive_intervals` for a program that is already traced.

    Example:
        >>> net = nn.Sequential(nn.ReLU(), nn.Linear(2, 1))
        >>> list(intervals_for(trace(net, torch.zeros(1, 2)), net))
        ['1.weight']
    """
    variables = chosen_inputs(program.inputs, wrt)
    broken = (*not_finite(program), *state_findings(program))
    if broken:
        raise NotCertified("\n".join([f"{program.model} cannot be made convex:", *map(str, broken)]), broken)
    known = unshared(program, lambda source: trains(source) or source.name in program.captured)
    facts = placeholder_facts(program, variables, {}, known)
    read = masks_of_partial_reads(find_elements_read(program, Known(facts)))
    done = try_twice(program, facts, model, read)
    if read and not is_proved(done.walked):  # what nobody reads may hide behind an operator that says too little
        done = try_twice(program, facts, model, {})
    done.check()
    if not is_proved(done.walked):
        findings = done.findings(program)
        head = f"{program.model} cannot be made convex by the signs of its parameters alone:"
        raise NotCertified("\n".join([head, *map(str, findings)]), tuple(findings))
    return done.intervals


def trains(source: Source) -> bool:
    """Whether training changes a tensor of the model."""
    return source.kind == "parameter" and source.tensor is not None and source.tensor.requires_grad


@dataclass
class Attempt:
    """One walk and what it requires of the parameters."""

    names: dict[int, str]  # of parameters, by identity: one for each shared parameter
    walked: Walk = field(default_factory=Walk)
    intervals: dict[str, Interval] = field(default_factory=dict)
    uses: dict[str, list[str]] = field(default_factory=dict)  # where each parameter is asked for something
    frozen: dict[str, Tensor] = field(default_factory=dict)  # that violate
    unreachable: dict[fx.Node, tuple[str, str]] = field(default_factory=dict)

    def check(self) -> None:
        """Opposite demands on one parameter, and frozen parameters that violate, are errors of their own."""
        for name, interval in self.intervals.items():
            if interval.conflict:
                raise NotCertified(explain_opposite_uses(name, self.uses[name]))
        for name, tensor in self.frozen.items():
            interval = self.intervals[name]
            what = "non-negative" if interval.nonnegative else "inside its interval"
            raise ValueError(
                f"{name} must be {what}, but it is frozen (requires_grad=False) and its least entry is "
                f"{tensor.detach().min().item():.3g}: unfreeze it, or make it {what} first"
            )

    def findings(self, program: Program) -> list[Finding]:
        """The walk's findings; a computed coefficient out of reach has its own reason."""
        out: list[Finding] = []
        own = {(module_path(n), source_line(n), f"aten.{base_name(n.target)}"): w for n, w in self.unreachable.items()}
        for finding in findings_of(program, self.walked):
            words = own.get((finding.path, finding.source, finding.operator))
            out.append(finding if words is None else replace(finding, reason=words[0], remedy=words[1]))
        return out


def explain_opposite_uses(name: str, uses: Sequence[str] = ()) -> str:
    """What to say about a parameter whose uses ask for opposite signs."""
    places = " and ".join(dict.fromkeys(uses))
    used = f"is used at {places}" if " and " in places else f"is used more than once in {places}"
    return (
        f"{name} {used if places else 'is constrained twice'}, and the uses require opposite signs: the entries in "
        "question would have to be zero. Give each use a parameter of its own"
    )


def try_twice(program: Program, facts: Callable[[str], Fact], model: nn.Module, read: dict[fx.Node, Tensor]) -> Attempt:
    """Walk once, and once more with what is needed of each result where that does not come out convex."""
    first = attempt(program, facts, model, {}, read)
    if is_proved(first.walked):
        return first
    second = attempt(program, facts, model, needed_curvatures(program, facts), read)
    return second if is_proved(second.walked) else first


def attempt(
    program: Program,
    facts: Callable[[str], Fact],
    model: nn.Module,
    needs: dict[fx.Node, int],
    read: dict[fx.Node, Tensor],
) -> Attempt:
    """Walk once.

    `needs` says which results must come out convex (+1) or concave (-1), `read` which of their elements matter where
    not all do.
    """
    found = Attempt({id(p): name for name, p in model.named_parameters()})

    def ask(call: Call, node: fx.Node) -> Call:
        call = forget_running_means(call)
        call = with_zeros(call, node, Known(facts))
        for demand in required_bounds(call, needs.get(node, 0), read.get(node)):
            call = satisfy_bounds(program, facts, found, call, node, demand)
        return call

    found.walked = walk(program, facts, explain, before=ask)
    return found


def forget_running_means(call: Call) -> Call:
    """Training moves the running mean of a BatchNorm, and nothing may rest on where it is now."""
    if is_batch_norm(call.name) and isinstance(call.args[3], Fact):
        return replace(call, args=(*call.args[:3], constant(call.args[3].shape), *call.args[4:]))
    return call


def with_zeros(call: Call, node: fx.Node, known: Callable[[fx.Node], Tensor | None]) -> Call:
    """The call whose coefficients are bounded by zero where they are zero for all parameters: pruned weights are."""
    args = list(call.args)
    for place in row_of(call.name).weights:
        origin: object = node.args[place] if place < len(node.args) else None
        fact = args[place] if place < len(args) else None
        if not isinstance(fact, Fact) or not isinstance(origin, fx.Node) or origin.op != "call_function":
            continue
        if fact.value is not None or not fact.constant:
            continue
        free = nonzero_factors(origin, known) != 0
        if not bool(free.all()):
            lo, hi = (torch.where(free, bound.double(), 0.0) for bound in (fact.lo, fact.hi))
            args[place] = fact.bounded(compact(lo), compact(hi))
    return replace(call, args=tuple(args))


def satisfy_bounds(
    program: Program, facts: Callable[[str], Fact], found: Attempt, call: Call, node: fx.Node, demand: RequiredBounds
) -> Call:
    """The call with a coefficient that does as asked, if the parameters behind it can be made to."""
    origin: object = node.args
    for index in demand.place:
        origin = origin[index]  # pyright: ignore
    if not isinstance(origin, fx.Node):
        return call
    try:
        asked = push_back(program, facts, origin, Interval(demand.lo, demand.hi))
    except Unreachable as error:
        if demand.coefficient.value is not None:
            return call  # the walk says how many of its entries are wrong
        found.unreachable[node] = (
            f"its coefficient would have to be non-negative where it meets what is not affine; but {error}",
            "use parameters directly, or make the coefficient non-negative for all their values (softplus, exp, "
            "square); torch.nn.utils.parametrize.remove_parametrizations makes a parametrised weight plain again",
        )
        return call
    for source, interval in asked.values():
        assert source.tensor is not None
        name = found.names[id(source.tensor)]
        found.uses.setdefault(name, []).append(module_path(node) or "the model's own forward")
        before = found.intervals.get(name)
        found.intervals[name] = compact_interval(interval if before is None else interval.meet(before))
        if not source.tensor.requires_grad and not interval.contains(source.tensor):
            found.frozen[name] = source.tensor
    weight = demand.coefficient
    shape = weight.shape
    lo = elementwise(lambda a, b: torch.maximum(a.double(), b), shape, weight.lo, field_of(demand.lo, shape))
    hi = elementwise(lambda a, b: torch.minimum(a.double(), b), shape, weight.hi, field_of(demand.hi, shape))
    kept = weight.bounded(lo, hi)
    args = list(call.args)
    if len(demand.place) == 1:
        args[demand.place[0]] = kept
    else:
        outer, inner = demand.place
        args[outer] = [kept if i == inner else part for i, part in enumerate(args[outer])]
    return replace(call, args=tuple(args))


def field_of(bound: Tensor, shape: Sequence[int]) -> Tensor:
    return compact(bound.expand(tuple(shape)), shape)


def compact_interval(interval: Interval) -> Interval:
    """The interval with its bounds at size 1 along dimensions where they do not differ."""
    bounds = torch.broadcast_tensors(interval.lo, interval.hi)
    return Interval(*(core(compact(bound.clone())).clone() for bound in bounds))


# --- what a tensor is needed as --------------------------------------------------------------------------------------


def needed_curvatures(program: Program, facts: Callable[[str], Fact]) -> dict[fx.Node, int]:
    """For each operator: +1 if its result must be convex for the outputs to be, -1 if concave, 0 if that is open.

    Found backwards from the outputs, by asking each rule what it makes of a convex and of a concave argument. What a
    coefficient of unknown sign multiplies is open, and so is what one reader needs convex and another concave.
    """
    nodes: list[fx.Node] = list(program.graph.nodes)
    moving: set[fx.Node] = set()
    for node in nodes:
        chosen_here = node.op == "placeholder" and not facts(str(node.target)).constant
        if chosen_here or moving.intersection(parents(node)):
            moving.add(node)
    wants: dict[fx.Node, set[int]] = {leaf: {1} for _, leaf in program.outputs if isinstance(leaf, fx.Node)}
    for node in reversed(nodes):
        if node.op != "call_function" or node not in moving:
            continue
        want = wants.get(node, {0})
        own = next(iter(want)) if len(want) == 1 and want != {0} else 1  # where that is open: as the outputs
        for argument in moving.intersection(parents(node)):
            listed = node.target is operator.getitem
            value = own if listed else needed_of(facts, moving, node, argument, own)
            if value:
                wants.setdefault(argument, set()).add(value)
    return {node: next(iter(want)) for node, want in wants.items() if len(want) == 1}


def needed_of(facts: Callable[[str], Fact], moving: set[fx.Node], node: fx.Node, argument: fx.Node, own: int) -> int:
    """What an operator needs one argument as, if its result is needed as `own`."""
    row = row_of(base_name(node.target))
    if not all(isinstance(n.meta.get("val"), (Tensor, *NUMBER)) for n in node.all_input_nodes):
        return 0
    results: list[str] = []
    for bends in (CONVEX, CONCAVE):

        def fact(n: fx.Node, bends: str = bends) -> Any:
            if not isinstance(n.meta["val"], Tensor):
                value = constant_value(facts, n)
                return constant(()) if value is None else value
            shape = n.meta["val"].shape
            if n.op == "placeholder":
                return facts(str(n.target))
            base = constant(shape, aligned_rows(shape) if batched(shape) and n in moving else None)
            if n not in moving:
                return base
            yes = uniform(True, shape, torch.bool)
            base = replace(base, varies=yes)
            if n is not argument:
                return base
            return replace(base, **{"nonconcave" if bends == CONVEX else "nonconvex": yes})

        table = {n: fact(n) for n in node.all_input_nodes}

        args: Any = fx.map_arg(node.args, table.__getitem__)
        kwargs: Any = fx.map_arg(node.kwargs, table.__getitem__)
        call, _ = call_of_node(node, args, kwargs)
        if call.unread:
            return 0
        try:
            result = row.rule(call)
        except (Refusal, RuntimeError, TypeError, ValueError, IndexError):
            return 0
        first = result[0] if isinstance(result, tuple) else result
        results.append(first.curvature)
    rising, falling = results
    if (rising, falling) == (CONVEX, CONCAVE):
        return own
    if (rising, falling) == (CONCAVE, CONVEX):
        return -own
    if rising != UNKNOWN:
        return 1
    return -1 if falling != UNKNOWN else 0

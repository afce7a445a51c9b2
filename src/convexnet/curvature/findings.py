"""What stands between a model and its certificate, and where."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from convexnet.curvature.facts import AFFINE, CONCAVE, CONSTANT, CONVEX, UNKNOWN, Fact
from convexnet.curvature.fields import BATCH, core
from convexnet.curvature.tracing.graph import ancestors, base_name, module_path, nodes_behind, source_line
from convexnet.curvature.tracing.trace import Program
from convexnet.curvature.value_bounds import is_finite
from convexnet.curvature.walk import Walk

WIDTH = 100
"""Characters in a line of a report."""


@dataclass(frozen=True)
class Finding:
    """One reason why a model has no certificate.

    Attributes:
        path: the module, as in `model.named_modules()`; empty for the model's own forward.
        source: file and line of the forward that called the operator, where known.
        operator: the operator, as `aten.silu`.
        argument: what is known about its arguments: curvature and sign.
        reason: why that breaks convexity.
        remedy: what to do about it.
        step: the place of the operator in the certificate's `steps`; -1 where it has none.

    Example:
        >>> from convexnet import certify
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU())
        >>> (finding,) = certify(net, torch.zeros(1, 2)).findings
        >>> finding.path, finding.operator, finding.argument
        ('1', 'aten.silu', 'affine')
    """

    path: str
    source: str
    operator: str
    argument: str
    reason: str
    remedy: str
    step: int = -1

    def __str__(self) -> str:
        at = f"   {self.source}" if self.source else ""
        lines = [f"{f'layer {self.path}' if self.path else 'forward'}: {self.operator}{at}"]
        for name, text in (("argument", self.argument), ("why", self.reason), ("remedy", self.remedy)):
            if text:
                lines += textwrap.wrap(text, WIDTH, initial_indent=f"   {name:<10}", subsequent_indent=" " * 13)
        return "\n".join(lines)


def is_row_by_row(fact: Fact) -> bool:
    """Whether row i of an output depends on row i of the batch only."""
    rows = core(fact.rows)
    if not bool(rows.any()):
        return True
    if not fact.shape or fact.shape[0] != BATCH:
        return False
    rows = rows.expand(BATCH, *rows.shape[1:])
    return all(not bool((rows[i] & ~torch.tensor(1 << i, dtype=torch.uint8)).any()) for i in range(BATCH))


def not_finite(program: Program) -> tuple[Finding, ...]:
    """A finding for every parameter or buffer that the program uses and that holds NaN or infinities."""
    used = {str(node.target) for node in program.graph.nodes if node.op == "placeholder" and node.users}
    found: list[Finding] = []
    for name, source in program.sources.items():
        tensor = source.tensor
        if name not in used or tensor is None or source.kind == "constant" or is_finite(tensor):
            continue
        bad = int((~tensor.double().isfinite()).sum())
        found.append(
            Finding(
                path=source.name.rpartition(".")[0],
                source="",
                operator=source.kind,
                argument="",
                reason=f"{bad:,} of {tensor.numel():,} entries of {source.name} are NaN or infinite",
                remedy="restore the last good weights; look for the step where the loss became infinite",
            )
        )
    return tuple(found)


def state_findings(program: Program) -> tuple[Finding, ...]:
    """A finding for each thing that makes the next call another function: random numbers that are not torch's, and
    buffers that the outputs depend on and that the forward changes."""
    drawn = tuple(
        Finding(
            "", "", name, "",
            f"the forward draws from {name}, so the next call may be another function",
            "draw random numbers in training mode only",
        )
        for name in program.draws
    )  # fmt: skip
    nodes = [leaf for _, leaf in program.outputs if isinstance(leaf, fx.Node)]
    used = {str(node.target) for leaf in nodes for node in ancestors(leaf) if node.op == "placeholder"}
    return drawn + tuple(
        Finding(
            source.name.rpartition(".")[0], "", "buffer", "",
            f"the forward changes {source.name}, so the next call is another function",
            "update buffers in training mode only",
        )
        for name, source in program.sources.items()
        if name in used and source.kind == "buffer" and source.name in program.rewritten
    )  # fmt: skip


def findings_of(program: Program, found: Walk) -> tuple[Finding, ...]:
    """What breaks the outputs that are not proved: the first steps to blame on the way to each."""
    leaves = dict(program.outputs)
    real = {path: fact for path, fact in found.facts.items() if not fact.integral}
    findings: list[Finding] = []
    if not real:
        findings.append(Finding("", "", "output", "", "the model has no floating-point output", "return real tensors"))
    bad = {p: f for p, f in real.items() if f.curvature not in (CONSTANT, AFFINE, CONVEX) or not is_row_by_row(f)}
    guilty: dict[str, set[fx.Node]] = {path: ancestors(leaves[path]) for path in bad}
    cone = set[fx.Node]().union(*guilty.values(), has_draws(program, found))
    inlined = {blame.node for blame in (*found.turns, *found.blames) if blame.node.graph is not program.graph}
    numbers = {node: i for i, (node, _) in enumerate(found.steps)}
    steps = {step.node: step for step in (*found.turns, *found.blames) if step.node in cone or step.node in inlined}
    for node in sorted(steps, key=order_of(program)):
        step = steps[node]
        operator = f"aten.{base_name(node.target)}"
        place = module_path(node), source_line(node)
        findings.append(Finding(*place, operator, step.argument, step.reason, step.remedy, numbers.get(node, -1)))
    for path, fact in bad.items():
        if any(node in guilty[path] or node in inlined for node in steps):
            continue
        findings.append(of_output(path, fact, leaves[path], numbers.get(leaves[path], -1)))
    return tuple(findings)


def has_draws(program: Program, found: Walk) -> set[fx.Node]:
    """The random draws whose elements an output is computed from, whatever comes of them; all those of regions."""
    read = (
        nodes_behind(leaf for _, leaf in program.outputs if isinstance(leaf, fx.Node))
        if found.drawn
        else set[fx.Node]()
    )
    return {node for node in found.drawn if node in read or node.graph is not program.graph}


def order_of(program: Program) -> Callable[[fx.Node], int]:
    """The place of a node in the forward; what is inside a region comes with its own order, last."""
    places = {node: i for i, node in enumerate(program.graph.nodes)}
    return lambda node: places.get(node, len(places))


def of_output(path: str, fact: Fact, node: fx.Node, step: int) -> Finding:
    """A finding of an output's own: concave, of mixed curvature, or out of line with the batch."""
    if not fact.shape or fact.shape[0] != BATCH:
        reason = f"its shape is {tuple(fact.shape)} for two samples: the first dimension is not the batch"
        remedy = "keep the batch in the first dimension: one row for each sample"
    elif not is_row_by_row(fact):
        reason = "its row i depends on other rows of the batch than row i, so it is not a function of one sample"
        remedy = "keep the batch in the first dimension, and do not reorder or reduce it"
    elif fact.curvature == CONCAVE:
        reason, remedy = "it is concave: its negative is convex", "negate it, or minimise its negative"
    else:
        reason = "some of its elements are convex and others concave"
        remedy = "return the two kinds as separate outputs, or negate the concave ones"
    argument = "partly convex, partly concave" if fact.curvature == UNKNOWN else fact.curvature
    return Finding(module_path(node), source_line(node), path, argument, reason, remedy, step)


def is_proved(found: Walk) -> bool:
    """Whether every floating output is convex, row by row."""
    real = [fact for fact in found.facts.values() if not fact.integral]
    return bool(real) and all(is_row_by_row(f) and f.curvature in (CONSTANT, AFFINE, CONVEX) for f in real)

"""`certify`: a proof that a network is convex in its inputs, or the operation that breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, fx, nn

from convexnet.curvature.explain import explain
from convexnet.curvature.facts import (
    AFFINE,
    CONCAVE,
    CONSTANT,
    CONVEX,
    UNKNOWN,
    Fact,
    constant,
    core,
    known,
    uniform,
)
from convexnet.curvature.trace import BATCH, Program, Source, base_name, chosen, module_path, source_line, trace
from convexnet.curvature.walk import Walk, walk
from convexnet.domains import Box
from convexnet.errors import NotCertified

ALL, HERE = "for all parameters", "at these weights"
Domain = Box | Sequence[Box | None] | None


@dataclass(frozen=True)
class Finding:
    """One thing that stands between a model and its certificate.

    Attributes:
        path: the module, as in `model.named_modules()`; empty for the model's own forward.
        source: file and line of the forward that called the operator, where known.
        operator: the operator, as `aten.silu`.
        argument: what is known about its arguments: curvature and sign.
        reason: why that breaks convexity.
        remedy: what to do about it.

    Example:
        >>> import torch
        >>> finding = certify(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU()), torch.zeros(1, 2)).findings[0]
        >>> finding.path, finding.operator, finding.argument
        ('1', 'aten.silu', 'affine')
    """

    path: str
    source: str
    operator: str
    argument: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = self.path or "forward"
        at = f"  ({self.source})" if self.source else ""
        lines = [f"{where}: {self.operator}{at}"]
        lines += [f"  {name:<9} {text}" for name, text in self._parts() if text]
        return "\n".join(lines)

    def _parts(self) -> tuple[tuple[str, str], ...]:
        return ("argument", self.argument), ("why", self.reason), ("remedy", self.remedy)


@dataclass(frozen=True)
class Step:
    """One operator of the chain from the inputs to the outputs, and what is known after it."""

    path: str
    operator: str
    result: str
    source: str


@dataclass(frozen=True)
class Certificate:
    """What `certify` found. True in a boolean context if every output is convex.

    Attributes:
        convex: every output is constant, affine or convex, and nothing was found against it.
        curvature: the join over the outputs: constant < affine < convex, concave; otherwise unknown.
        scope: "for all parameters" or "at these weights".
        findings: what breaks convexity, in the order of the forward.
        outputs: the curvature of every floating output, by path (`output`, `output[0]`, `output['logits']`).

    The rest describes what was certified: the model's class, the shapes of one sample of each input, the inputs
    convexity is meant in, the domain, the number of operators, and the chain of steps.

    Example:
        >>> import torch
        >>> certificate = certify(torch.nn.Linear(3, 2), torch.zeros(1, 3))
        >>> certificate.convex, certificate.curvature, certificate.scope, certificate.outputs
        (True, 'affine', 'for all parameters', {'output': 'affine'})
    """

    convex: bool
    curvature: str
    scope: str
    findings: tuple[Finding, ...]
    outputs: Mapping[str, str]
    model: str
    shapes: tuple[tuple[int, ...], ...]
    wrt: tuple[int, ...]
    domain: str
    operators: int
    steps: tuple[Step, ...]

    def __bool__(self) -> bool:
        return self.convex

    def require(self) -> Certificate:
        """Return the certificate if it proves convexity.

        Raises:
            NotCertified: with every finding.

        Example:
            >>> import torch
            >>> certify(torch.nn.Linear(3, 2), torch.zeros(1, 3)).require().curvature
            'affine'
        """
        if not self.convex:
            raise NotCertified(f"{self.headline()}\n" + "\n".join(str(finding) for finding in self.findings))
        return self

    def headline(self) -> str:
        """The verdict in one line.

        Example:
            >>> import torch
            >>> print(certify(torch.nn.Linear(3, 2), torch.zeros(1, 3)).headline())
            CONVEX: Linear is affine in its input, for all parameters
        """
        names = "its input" if len(self.shapes) == 1 else "input" + ("s " if len(self.wrt) > 1 else " ")
        if len(self.shapes) > 1:
            names += " and ".join(str(i) for i in self.wrt) + (" jointly" if len(self.wrt) > 1 else "")
        if self.convex:
            return f"CONVEX: {self.model} is {self.curvature} in {names}, {self.scope}"
        return f"NOT CERTIFIED: {self.model} is not proved convex in {names}, {self.scope}"

    def __str__(self) -> str:
        from convexnet.curvature.report import render

        return render(self)

    def to_json(self) -> str:
        """The certificate as a JSON object.

        Example:
            >>> import torch
            >>> json.loads(certify(torch.nn.Linear(3, 2), torch.zeros(1, 3)).to_json())["curvature"]
            'affine'
        """
        return json.dumps({"format": "convexnet.certificate/1", **asdict(self)})


def certify(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    wrt: int | Sequence[int] | None = None,
    domain: Domain = None,
) -> Certificate:
    """Prove that every output of a model is convex in its inputs, or name the operation that breaks it.

    The proof is disciplined convex programming (Grant, Boyd & Ye 2006) carried through the traced program element by
    element: sufficient, not necessary. It holds in eval mode and real arithmetic, for samples of the example's shape.
    The model is left untouched.

    Args:
        model: any `nn.Module` that `torch.export` can trace.
        example: a tensor (B, ...) or a tuple of positional tensors, batch first. Only shapes and types matter.
        wrt: the input or inputs to be convex in; the others are parameters (partial convexity). None: jointly
            convex in all floating inputs.
        domain: a `Box` of one sample that the chosen input stays in (or one for each chosen input; None: free). The
            certificate then holds on that box.

    Raises:
        TypeError, ValueError: wrong arguments.
        NotTraceable: `torch.export` cannot turn the model into one program.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> _ = net[2].weight.data.abs_()
        >>> certificate = certify(net, torch.zeros(1, 2))
        >>> certificate.convex, certificate.curvature, certificate.scope
        (True, 'convex', 'at these weights')
    """
    return certify_program(trace(model, example), wrt, domain)


def certify_program(program: Program, wrt: int | Sequence[int] | None = None, domain: Domain = None) -> Certificate:
    """`certify` for a program that is already traced.

    Example:
        >>> import torch
        >>> certify_program(trace(torch.nn.ReLU(), torch.zeros(1, 2))).curvature
        'convex'
    """
    variables = chosen(program.inputs, wrt)
    boxes = domains_of(program.inputs, variables, domain)
    broken = not_finite(program)
    parameters = any(source.kind == "parameter" for source in program.sources.values())
    unknown_parameters = given(program, variables, boxes, lambda source: source.kind != "parameter")
    found = walk(program, unknown_parameters, explain, fast=parameters)
    scope = ALL
    if found.stopped or not proved(found):
        if parameters:
            found = walk(program, given(program, variables, boxes, lambda _: True), explain, fast=False)
            scope = HERE
    findings = (*broken, *findings_of(program, found))
    outputs = {path: fact.curvature for path, fact in found.facts.items() if not fact.integral}
    curvature = join(outputs.values())
    if broken:
        curvature, outputs = UNKNOWN, dict.fromkeys(outputs, UNKNOWN)
    return Certificate(
        convex=not findings and curvature in (CONSTANT, AFFINE, CONVEX),
        curvature=curvature,
        scope=scope,
        findings=findings,
        outputs=outputs,
        model=program.model,
        shapes=tuple(tuple(tensor.shape[1:]) for tensor in program.inputs),
        wrt=variables,
        domain=_describe(boxes),
        operators=program.operators,
        steps=tuple(_step(node, result) for node, result in found.steps),
    )


def _describe(boxes: Mapping[int, Box]) -> str:
    parts = [f"input {i} in [{float(box.lo.min()):g}, {float(box.hi.max()):g}]" for i, box in boxes.items()]
    return "; ".join(parts)


def _step(node: fx.Node, result: str) -> Step:
    return Step(module_path(node), base_name(node.target), result, source_line(node))


def domains_of(inputs: Sequence[Tensor], variables: Sequence[int], domain: Domain) -> dict[int, Box]:
    """The box of each chosen input that has one."""
    if domain is None:
        return {}
    listed = [domain] if isinstance(domain, Box) else list(domain)
    if len(listed) != len(variables):
        raise ValueError(f"{len(listed)} domain(s) for {len(variables)} chosen input(s): give one for each, or None")
    boxes: dict[int, Box] = {}
    for index, box in zip(variables, listed, strict=True):
        if box is None:
            continue
        if not isinstance(box, Box):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the domain of input {index} must be a Box, not {type(box).__name__}")
        shape = inputs[index].shape[1:]
        if box.shape != shape:
            raise ValueError(f"the domain of input {index} has shape {tuple(box.shape)}, one sample has {tuple(shape)}")
        boxes[index] = box
    return boxes


def given(
    program: Program, variables: Sequence[int], boxes: Mapping[int, Box], known_here: Callable[[Source], bool]
) -> Callable[[str], Fact]:
    """The facts of the placeholders: chosen inputs vary, other inputs are constants of unknown value, and so are the
    tensors of the model that are not `known_here`."""

    def fact(name: str) -> Fact:
        source: Source = program.sources[name]
        if source.kind == "input":
            tensor = program.inputs[source.index]
            rows = torch.arange(1, BATCH + 1, dtype=torch.uint8).reshape(BATCH, *[1] * (tensor.ndim - 1))
            base = constant(tensor.shape, rows.expand(tensor.shape))
            if source.index not in variables:
                floating = tensor.is_floating_point()
                return base if floating else Fact(*base.fields(), integral=True)
            varies = uniform(True, tensor.shape, torch.bool)
            box = boxes.get(source.index)
            lo, hi = (base.lo, base.hi) if box is None else (b.expand(tensor.shape) for b in (box.lo, box.hi))
            return Fact(base.nonconvex, base.nonconcave, varies, base.rows, lo, hi)
        assert source.tensor is not None
        if not known_here(source):
            return constant(source.tensor.shape)
        return known(source.tensor.detach())

    return fact


def not_finite(program: Program) -> tuple[Finding, ...]:
    """A finding for every parameter or buffer that the program uses and that holds NaN or infinities."""
    used = {str(node.target) for node in program.graph.nodes if node.op == "placeholder" and node.users}
    found: list[Finding] = []
    for name, source in program.sources.items():
        tensor = source.tensor
        if name not in used or tensor is None or not tensor.is_floating_point() or source.kind == "constant":
            continue
        bad = int((~tensor.isfinite()).sum())
        if bad:
            found.append(
                Finding(
                    path=source.name.rpartition(".")[0],
                    source="",
                    operator=source.kind,
                    argument="",
                    reason=f"{source.name} holds {bad:,} NaN or infinite entries of {tensor.numel():,}",
                    remedy="restore the last good weights; look for the step where the loss became infinite",
                )
            )
    return tuple(found)


def join(curvatures: Sequence[str] | object) -> str:
    """The least curvature that covers all of the given ones."""
    kinds = set(curvatures)  # type: ignore[call-overload]
    if UNKNOWN in kinds or {CONVEX, CONCAVE} <= kinds:
        return UNKNOWN
    for kind in (CONVEX, CONCAVE, AFFINE, CONSTANT):
        if kind in kinds:
            return kind
    return UNKNOWN


def aligned(fact: Fact) -> bool:
    """Whether row i of an output depends on row i of the batch only."""
    rows = core(fact.rows)
    if not bool(rows.any()):
        return True
    if not fact.shape or fact.shape[0] != BATCH:
        return False
    rows = rows.expand(BATCH, *rows.shape[1:])
    return all(not bool((rows[i] & ~torch.tensor(1 << i, dtype=torch.uint8)).any()) for i in range(BATCH))


def proved(found: Walk) -> bool:
    real = [fact for fact in found.facts.values() if not fact.integral]
    return bool(real) and all(aligned(f) and f.curvature in (CONSTANT, AFFINE, CONVEX) for f in real)


def findings_of(program: Program, found: Walk) -> tuple[Finding, ...]:
    """What breaks the outputs that are not proved: the first steps to blame on the way to each."""
    leaves = dict(program.outputs)
    real = {path: fact for path, fact in found.facts.items() if not fact.integral}
    findings: list[Finding] = []
    if not real:
        findings.append(Finding("", "", "output", "", "the model has no floating-point output", "return real tensors"))
    bad = {p: f for p, f in real.items() if f.curvature not in (CONSTANT, AFFINE, CONVEX) or not aligned(f)}
    guilty: dict[str, set[fx.Node]] = {path: ancestors(leaves[path]) for path in bad}
    cone = set[fx.Node]().union(*guilty.values()) if guilty else set[fx.Node]()
    inlined = {blame.node for blame in found.blames if blame.node.graph is not program.graph}
    for blame in found.blames:
        if blame.node in cone or blame.node in inlined:
            operator = f"aten.{base_name(blame.node.target)}"
            place = module_path(blame.node), source_line(blame.node)
            findings.append(Finding(*place, operator, blame.argument, blame.reason, blame.remedy))
    for path, fact in bad.items():
        if any(b.node in guilty[path] or b.node in inlined for b in found.blames):
            continue
        findings.append(of_output(path, fact, leaves[path]))
    return tuple(findings)


def of_output(path: str, fact: Fact, node: fx.Node) -> Finding:
    """A finding of an output's own: concave, of mixed curvature, or out of line with the batch."""
    if not aligned(fact):
        reason = "its row i depends on other rows of the batch than row i, so it is no function of one sample"
        remedy = "keep the batch in the first dimension, and do not reorder or reduce it"
    elif fact.curvature == CONCAVE:
        reason, remedy = "it is concave: its negative is convex", "negate it, or minimise its negative"
    else:
        reason = "some of its elements are convex and others concave"
        remedy = "return the two kinds as separate outputs, or negate the concave ones"
    return Finding(module_path(node), source_line(node), path, fact.curvature, reason, remedy)


def ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending.extend(current.all_input_nodes)
    return found

"""`certify`: a proof that a network is convex in its inputs, or the operation that breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, fx, nn

from convexnet.curvature import explain
from convexnet.curvature.arguments import chosen
from convexnet.curvature.facts import AFFINE, CONCAVE, CONSTANT, CONVEX, UNKNOWN, Fact, constant, known
from convexnet.curvature.fields import aligned_rows, compact, uniform
from convexnet.curvature.findings import Finding, aligned, drawn, findings_of, not_finite, rewritten
from convexnet.curvature.tracing.graph import base_name, module_path, source_line
from convexnet.curvature.tracing.trace import Program, Source, place, trace
from convexnet.curvature.walk import Walk, walk
from convexnet.domains import Box
from convexnet.errors import NotCertified

ALL, HERE = "for all parameters", "at these weights"
Domain = Box | Sequence[Box | None] | None


@dataclass(frozen=True)
class Step:
    """One operator of the chain from the inputs to the outputs, and what is known after it."""

    path: str
    operator: str
    result: str
    source: str


@dataclass(frozen=True)
class Certificate:
    """The result of `certify`. True in a boolean context if every output is convex.

    Attributes:
        convex: every output is constant, affine or convex, and nothing was found against it.
        curvature: the join over the outputs: constant < affine < convex, concave; otherwise unknown.
        scope: "for all parameters" or "at these weights".
        findings: what breaks convexity, in the order of the forward.
        outputs: the curvature of every floating output, by path (`output`, `output[0]`, `output['logits']`).

    The rest describes what was certified: the model's class, the shapes of one sample of each input, the inputs
    convexity is meant in, the domain, the number of operators, the chain of steps, and notes: where the forward rounds
    what varies to a type of lower precision, which no proof in real arithmetic sees.

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
    notes: tuple[str, ...] = ()

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
            raise NotCertified(f"{self.headline()}\n" + "\n".join(map(str, self.findings)), self.findings)
        return self

    def headline(self) -> str:
        """Return the verdict in one line.

        Example:
            >>> import torch
            >>> print(certify(torch.nn.Linear(3, 2), torch.zeros(1, 3)).headline())
            CONVEX: Linear is affine in its input, for all parameters
        """
        names = "its input" if len(self.shapes) == 1 else "input" + ("s " if len(self.wrt) > 1 else " ")
        if len(self.shapes) > 1:
            names += " and ".join(str(i) for i in self.wrt) + (" jointly" if len(self.wrt) > 1 else "")
        if self.curvature == CONSTANT and self.convex:
            return f"CONVEX, but only because constant: nothing of {names} reaches the output, {self.scope}"
        if self.convex:
            return f"CONVEX: {self.model} is {self.curvature} in {names}, {self.scope}"
        return f"NOT CERTIFIED: {self.model} is not proved convex in {names}"

    def __str__(self) -> str:
        from convexnet.curvature.certificate_text import render

        return render(self)

    def to_json(self) -> str:
        """Return the certificate as a JSON object.

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
    The program is traced with a batch of two, and compared with the forward itself on the example and on random rows: a
    forward that counts its calls, asks whether it is traced, or computes something else in float64 or in batches of
    another size, is refused. Random numbers are a finding, and so are NaN and infinities that reach an output. What
    does not depend on the inputs is computed as the model computes it, in its own precision. Weights of modules that a
    function of the model's only refers to are taken at their values. The model is left untouched, and so are the
    settings and random numbers of Python, NumPy and torch; threads wait for each other while a model is traced.

    Args:
        model: any `nn.Module` that `torch.export` can trace.
        example: a tensor (B, ...) or a tuple of positional tensors, batch first. Only shapes and types matter.
        wrt: the input or inputs to be convex in; the others are parameters (partial convexity). None: jointly
            convex in all floating inputs.
        domain: a `Box` of one sample that the chosen input stays in (or one for each chosen input; None: free). The
            certificate then holds on that box; where it is one for each sample, on the smallest that holds them all.

    Raises:
        TypeError, ValueError: wrong arguments.
        NotTraceable: `torch.export` cannot turn the model into one program, or makes another one of it.

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
    broken = (*not_finite(program), *rewritten(program))
    parameters = any(is_weight(program, source) for source in program.sources.values())
    unknown_parameters = given(program, variables, boxes, apart(program, lambda source: is_weight(program, source)))
    found = walk(program, unknown_parameters, explain, fast=parameters)
    scope = ALL
    if found.stopped or not proved(found) or any(b.node.graph is not program.graph for b in found.blames):
        if parameters:
            found = walk(program, given(program, variables, boxes, lambda _: True), explain, fast=False)
            scope = HERE
    findings = (*broken, *findings_of(program, found))
    outputs = {path: fact.curvature for path, fact in found.facts.items() if not fact.integral}
    curvature = join(outputs.values())
    if broken or drawn(program, found):
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
        notes=tuple(map(_rounded, found.casts)),
    )


def is_weight(program: Program, source: Source) -> bool:
    """Whether training may change a tensor: a parameter, or one of a module that a function of the model's reads."""
    return source.kind == "parameter" or source.name in program.captured


def apart(program: Program, moves: Callable[[Source], bool]) -> Callable[[Source], bool]:
    """Which tensors of a model lie in no memory of one that `moves`; a buffer may share it with a parameter."""
    memory = {place(s.tensor) for s in program.sources.values() if s.tensor is not None and moves(s)}
    return lambda source: source.tensor is None or place(source.tensor) not in memory


FACTORS = 4
"""Elements of a box that are printed one by one."""


def _describe(boxes: Mapping[int, Box]) -> str:
    return "; ".join(f"input {index} in {_shown(box)}" for index, box in boxes.items())


def _shown(box: Box) -> str:
    """A box in words: no more than it holds is claimed."""
    sides = list(zip(box.lo.flatten().tolist(), box.hi.flatten().tolist(), strict=True))
    if len(set(sides)) <= 1 or len(sides) <= FACTORS:
        factors = [f"[{_number(lo)}, {_number(hi)}]" for lo, hi in (sides[:1] if len(set(sides)) <= 1 else sides)]
        return " x ".join(factors)
    least, greatest = min(lo for lo, _ in sides), max(hi for _, hi in sides)
    return f"its box, whose bounds differ between elements and lie in [{_number(least)}, {_number(greatest)}]"


def _number(value: float) -> str:
    """Short where that is exact."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _step(node: fx.Node, result: str) -> Step:
    return Step(module_path(node), base_name(node.target), result, source_line(node))


def _rounded(node: fx.Node) -> str:
    kind = str(node.meta["val"].dtype).removeprefix("torch.")
    where = ", ".join(part for part in (module_path(node), source_line(node)) if part)
    return (
        f"{base_name(node.target)} rounds to {kind}{f' ({where})' if where else ''}: the certificate is of the "
        "function without that rounding, and the module's own values are steps along it"
    )


def domains_of(inputs: Sequence[Tensor], variables: Sequence[int], domain: Domain) -> dict[int, Box]:
    """The box of each chosen input that has one; of a box for each sample, the one that holds them all."""
    if domain is None:
        return {}
    listed = [domain] if isinstance(domain, Box) else list(domain)
    if not all(box is None or isinstance(box, Box) for box in listed):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError("a domain is a Box for each chosen input, as Box(0, 1, shape=(3, 32, 32)), or None")
    if len(listed) != len(variables):
        raise ValueError(f"{len(listed)} domain(s) for {len(variables)} chosen input(s): give one for each, or None")
    boxes: dict[int, Box] = {}
    for index, box in zip(variables, listed, strict=True):
        if box is None:
            continue
        shape = inputs[index].shape[1:]
        if box.shape != shape:
            raise ValueError(f"the domain of input {index} has shape {tuple(box.shape)}, one sample has {tuple(shape)}")
        hull = box.hull()
        boxes[index] = Box(hull.lo.detach(), hull.hi.detach(), hull.shape)
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
            base = constant(tensor.shape, aligned_rows(tensor.shape))
            if source.index not in variables:
                return replace(base, integral=not tensor.is_floating_point())
            box = boxes.get(source.index)
            lo, hi = (base.lo, base.hi) if box is None else (compact(b, tensor.shape) for b in (box.lo, box.hi))
            return replace(base, varies=uniform(True, tensor.shape, torch.bool), lo=lo, hi=hi)
        assert source.tensor is not None
        if not known_here(source):
            return constant(source.tensor.shape)
        return known(source.tensor.detach())

    return fact


def join(curvatures: Iterable[str]) -> str:
    """The least curvature that covers all of the given ones."""
    kinds = set(curvatures)
    if UNKNOWN in kinds or {CONVEX, CONCAVE} <= kinds:
        return UNKNOWN
    for kind in (CONVEX, CONCAVE, AFFINE, CONSTANT):
        if kind in kinds:
            return kind
    return UNKNOWN


def proved(found: Walk) -> bool:
    real = [fact for fact in found.facts.values() if not fact.integral]
    return bool(real) and all(aligned(f) and f.curvature in (CONSTANT, AFFINE, CONVEX) for f in real)

"""`certify`: a proof that a network is convex in its inputs, or the operation that breaks it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from torch import Tensor, fx, nn

from convexnet.curvature import explain
from convexnet.curvature.arguments import ONLY, PART, chosen_inputs, unwrap
from convexnet.curvature.facts import AFFINE, CONCAVE, CONSTANT, CONVEX, UNKNOWN
from convexnet.curvature.findings import Finding, findings_of, has_draws, is_proved, not_finite, state_findings
from convexnet.curvature.premises import Domain, boxes_of, is_weight, placeholder_facts, unshared
from convexnet.curvature.tracing.graph import base_name, module_path, source_line
from convexnet.curvature.tracing.trace import Program, trace
from convexnet.curvature.walk import walk
from convexnet.domains import Box
from convexnet.errors import NotCertified

ALL, HERE = "for all parameters", "at these weights"


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
            certificate then holds on that box; where it is one for each sample, on the smallest that holds them all;
            and of any other domain on its `hull()`.

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
    certificate = certify_program(trace(model, example), wrt, domain)
    return replace(certificate, notes=(*certificate.notes, *notes_on_parts(unwrap(model))))


def notes_on_parts(model: nn.Module) -> tuple[str, ...]:
    """What a certificate says where `convexify(only=...)` made a part convex: in which input, and in which not.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> net.__dict__[ONLY] = ("1",)
        >>> notes_on_parts(net)[0]
        'it was converted to be convex in the input of 1 alone: certify that part with the features that it is given'
    """
    parts: tuple[str, ...] = model.__dict__.get(ONLY, ())
    part: tuple[str, str] | None = model.__dict__.get(PART)
    notes: list[str] = []
    if parts:
        one = "that part" if len(parts) == 1 else "each part"
        notes.append(
            f"it was converted to be convex in the input of {' and of '.join(parts)} alone: certify {one} with the "
            "features that it is given"
        )
    if part is not None:
        notes.append(
            f"it is {part[0]} of {part[1]}, converted alone: its input is the features that {part[1]} computes, and "
            f"what is proved is proved in these features, not in the input of {part[1]}"
        )
    return tuple(notes)


def certify_program(program: Program, wrt: int | Sequence[int] | None = None, domain: Domain = None) -> Certificate:
    """`certify` for a program that is already traced.

    Example:
        >>> import torch
        >>> certify_program(trace(torch.nn.ReLU(), torch.zeros(1, 2))).curvature
        'convex'
    """
    variables = chosen_inputs(program.inputs, wrt)
    boxes = boxes_of(program.inputs, variables, domain)
    broken = (*not_finite(program), *state_findings(program))
    parameters = any(is_weight(program, source) for source in program.sources.values())
    unknown_parameters = placeholder_facts(
        program, variables, boxes, unshared(program, lambda source: is_weight(program, source))
    )
    found = walk(program, unknown_parameters, explain, fast=parameters)
    scope = ALL
    if found.stopped or not is_proved(found) or any(b.node.graph is not program.graph for b in found.blames):
        if parameters:
            found = walk(program, placeholder_facts(program, variables, boxes, lambda _: True), explain, fast=False)
            scope = HERE
    findings = (*broken, *findings_of(program, found))
    outputs = {path: fact.curvature for path, fact in found.facts.items() if not fact.integral}
    curvature = join_curvatures(outputs.values())
    if broken or has_draws(program, found):
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


def join_curvatures(curvatures: Iterable[str]) -> str:
    """The least curvature that covers all of the given ones."""
    kinds = set(curvatures)
    if UNKNOWN in kinds or {CONVEX, CONCAVE} <= kinds:
        return UNKNOWN
    for kind in (CONVEX, CONCAVE, AFFINE, CONSTANT):
        if kind in kinds:
            return kind
    return UNKNOWN

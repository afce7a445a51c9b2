"""What the record of a run says of convexity: proved or not, kept by what, and how much of the network it restricts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexnet.constraints.constrain import Kept
from convexnet.constraints.required_signs import intervals_for
from convexnet.constraints.sets import Interval
from convexnet.curvature.arguments import unwrap
from convexnet.curvature.certificate import ALL, certify_program
from convexnet.curvature.tracing.restored_state import calling
from convexnet.curvature.tracing.trace import Program, trace
from convexnet.differences.convex_part import ConvexPart
from convexnet.errors import NotCertified
from convexnet.memory import CONSTRAINT, ONLY, example_of, part_of, recall
from convexnet.nn.heads import FreeHead


@dataclass(frozen=True)
class Verdict:
    """What was proved of a network.

    Attributes:
        convex: whether it is proved convex at its present weights.
        kept: whether training cannot undo that: it holds for all parameters, or a recorded constraint keeps it (as long
            as an optimiser is attached), or nothing is trained.
        tier: how much convexity restricts it, "T0" to "T3"; None where it is not proved.
        curvature, scope: of the certificate.
        breaks: path, operator and reason of the first finding; None where it is proved.
        certificate: the certificate in full, as it is printed.
    """

    convex: bool
    kept: bool
    tier: str | None
    curvature: str
    scope: str
    breaks: tuple[str, str, str] | None
    certificate: str = ""

    @property
    def certified(self) -> bool:
        """Convex, and not merely left so by a training that might have ended otherwise."""
        return self.convex and self.kept


def verdict(model: nn.Module, example: Tensor | Sequence[Tensor], wrt: int | None = None) -> Verdict:
    """Certify a network and say in which tier it is.

    T0: logits of an ordinary network, all shifted by the same convex function (`convexnet.split.shifted`): no
    restriction. T1: a head of free sign, read relative to its least weight (`FreeHead`). T2: two or more convex outputs
    without either. T3: one output, whose sublevel sets {f <= c} are convex: here convexity truly restricts.

    T0 and T1 are read off the modules that make them; a network that does the same by operations of its own counts as
    T2. Args:
        model: any module that can be traced.
        example: a tensor (B, ...) or a tuple of positional ones.
        wrt: the number of the input in which it is convex, for an energy; it has no tier then. None: all of them.

    Raises:
        NotTraceable, ValueError, TypeError: as for `certify`.

    Example:
        >>> import convexnet as cx
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
        >>> verdict(net, torch.zeros(2, 2)).tier is None
        True
        >>> _ = cx.constrain(net, torch.zeros(2, 2), method="clip")
        >>> verdict(net, torch.zeros(2, 2)).tier
        'T2'
    """
    model = unwrap(model)
    program = trace(model, example)  # once for both: it is most of what they cost
    certificate = certify_program(program, wrt)
    first = certificate.findings[0] if certificate.findings else None
    return Verdict(
        convex=certificate.convex,
        kept=certificate.convex and keeps(model, program, certificate.scope, wrt),
        tier=tier_of(model, example) if certificate.convex and wrt is None else None,
        curvature=certificate.curvature,
        scope=certificate.scope,
        breaks=(first.path, first.operator, first.reason) if first is not None and not certificate.convex else None,
        certificate=str(certificate),
    )


def part_verdicts(model: nn.Module, example: Tensor) -> dict[str, Verdict]:
    """What is proved of the parts that `convexify(only=...)` made convex, each in the features that it is given.

    Example:
        >>> import convexnet as cx
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
        >>> _ = net[2][2].weight.data.abs_()
        >>> part = cx.convexify(net, torch.zeros(2, 2), only="2", activation="relu")
        >>> [(path, found.certified) for path, found in part_verdicts(part, torch.zeros(2, 2)).items()]
        [('2', True)]
        >>> part_verdicts(net, torch.zeros(2, 2))
        {}
    """
    model = unwrap(model)
    paths: tuple[str, ...] = recall(model, ONLY) or ()
    return {path: verdict(*part_of(model, path, (example,))) for path in paths}


def tier_of(model: nn.Module, example: Tensor | Sequence[Tensor]) -> str:
    """The tier of a model that is proved convex."""
    if outputs(model, example) == 1:
        return "T3"
    modules = tuple(model.modules())
    if any(isinstance(module, ConvexPart) and module.wanted == "shifted" for module in modules):
        return "T0"
    return "T1" if any(isinstance(module, FreeHead) for module in modules) else "T2"


@torch.no_grad()
def outputs(model: nn.Module, example: Tensor | Sequence[Tensor]) -> int:
    """How many numbers a sample gives."""
    inputs = example_of(model, example)
    with calling(model):
        found = model(*inputs)
    if not isinstance(found, Tensor):
        raise TypeError(f"a tier is that of one tensor of outputs; {type(model).__name__} returns {type(found)}")
    return found[0].numel()


def keeps(model: nn.Module, program: Program, scope: str, wrt: int | None = None) -> bool:
    """Whether no step of training can undo a proof: of all parameters, of none that train, or of constrained ones."""
    if scope == ALL or not any(parameter.requires_grad for parameter in model.parameters()):
        return True
    recorded: dict[str, Interval] = {}
    for path, module in model.named_modules():
        kept: Kept | None = recall(module, CONSTRAINT)
        if kept is not None:
            recorded |= {f"{path}.{name}".lstrip("."): interval for name, interval in kept.intervals.items()}
    try:
        needed = intervals_for(program, model, wrt)
    except NotCertified:
        return False  # convex at these weights, but no signs of its parameters would keep it so
    return all(name in recorded and is_within_cone(recorded[name], interval) for name, interval in needed.items())


def is_within_cone(inner: Interval, outer: Interval) -> bool:
    """Whether one interval lies in another, entry by entry."""
    return bool((inner.lo >= outer.lo).all() and (inner.hi <= outer.hi).all())

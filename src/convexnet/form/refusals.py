"""What stands in the way of a form, as the error that lists it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx

from convexnet.curvature.call import Refusal
from convexnet.curvature.findings import Finding
from convexnet.curvature.tracing.graph import base_name, module_path, source_line
from convexnet.errors import NotCertified


def raise_refusals(model: str, refusals: Iterable[tuple[fx.Node, Refusal]]) -> None:
    """Raise the error that names each operator with its place, if there is anything.

    Raises:
        NotCertified: there is.
    """
    findings: Sequence[Finding] = tuple(
        Finding(module_path(node), source_line(node), f"aten.{base_name(node.target)}", "", why.reason, why.remedy)
        for node, why in dict(refusals).items()
    )
    if findings:
        raise NotCertified(f"NOT EXPORTED: {model}\n" + "\n".join(map(str, findings)), tuple(findings))

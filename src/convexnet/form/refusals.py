"""What stands in the way of a form, and the error that lists it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx

from convexnet.curvature.call import Refusal
from convexnet.curvature.findings import Finding
from convexnet.curvature.rules import matrices
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import base_name, module_path, source_line
from convexnet.errors import NotCertified
from convexnet.form.rows import SIMPLER

SPECTRAL = (
    matrices.svdvals, matrices.eigvalsh, matrices.eigh, matrices.logdet, matrices.slogdet, matrices.det,
    matrices.inverse,
)  # fmt: skip


def without_row(name: str) -> Refusal:
    """Why an operator that is not affine and has no row cannot be lowered."""
    row, reason = row_of(name), "it is neither affine nor one of the functions that have a form"
    if row.runs(*SPECTRAL):
        reason = "it is a function of eigenvalues, which is written with semidefinite cones only: no form here has them"
    return Refusal(reason, row.instead or SIMPLER)


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

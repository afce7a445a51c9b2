"""CVXPY's atoms and ours: the table of docs/atoms.md, made from rows that are run: `python -m tests.atoms write`.

A row is an atom of CVXPY, the same function in PyTorch as people write it, and the box on which it is looked at. Both
are shown on the page as they are written here. Of their arguments,

    x, y    are vectors of three numbers, (B, 3) in PyTorch
    t       is a number, (B,)
    X, Z    are matrices, (B, 2, 2) and (B, 4, 4)

What is in the other columns is found out by running the row. `tests/test_atoms.py` compares the table with the page.

Long because it is a list with what is asked of its rows.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.curvature.call import Refusal
from convexnet.curvature.certificate import certify_program
from convexnet.curvature.fields import BATCH
from convexnet.curvature.tracing.trace import Program, trace
from convexnet.form.atoms import Atom
from convexnet.form.matrices import Pieces
from convexnet.form.program import OpenedProgram, values_of
from convexnet.form.smooth import NO_CONE
from convexnet.form.sparse import Sample, sparse_form
from convexnet.form.tightness import check_tight
from convexnet.solve.lower_bounds import is_supported
from convexnet.solve.solver_functions import open_functions

cp = pytest.importorskip("cvxpy")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "atoms.md"
COMMAND = "python -m tests.atoms write"
MARKS = f"<!-- The rows are made by `{COMMAND}`. -->\n", "<!-- End of the rows. -->\n"
SHAPES: dict[str, tuple[int, ...]] = {"x": (3,), "y": (3,), "t": (), "X": (2, 2), "Z": (4, 4)}
POINTS = 4

inf = math.inf
A = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
P = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.25], [0.0, -0.25, 1.0]], dtype=torch.float64)
S = torch.tensor([[1.0, 0.25, 0.0], [0.25, 1.0, 0.25], [0.0, 0.25, 1.0]], dtype=torch.float64)
a = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
b = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
w = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
u = cp.Variable(3)


@dataclass(frozen=True)
class Row:
    """An atom and the same function in PyTorch.

    Attributes:
        kind: the heading that it stands under.
        atom: the function in CVXPY; its parameters name the arguments.
        ours: the function in PyTorch, of the same arguments.
        box: bounds of every element of the arguments; None: the whole space.
        why: what is missing, of one that is not certified.
        near: the relative difference that CVXPY's value may have: some of its atoms are approximations.
    """

    kind: str
    atom: Callable[..., Any]
    ours: Callable[..., Tensor]
    box: tuple[float, float] | None = None
    why: str = ""
    near: float = 1e-9

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.ours).parameters)

    @property
    def bounds(self) -> cx.Box:
        """The box of the one input that holds all arguments."""
        lo, hi = self.box or (-inf, inf)
        return cx.Box(float(lo), float(hi), shape=self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        shapes = [SHAPES[name] for name in self.arguments]
        return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)

    def points(self, count: int) -> Tensor:
        """Points of the box, (count, ...), none of them near its ends."""
        lo, hi = self.box or (-2.0, 2.0)
        share = torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return lo + 0.1 + (min(hi, 3.0) - lo - 0.2) * share


ONE, VECTOR, MATRIX, AFFINE = "Element by element", "Of vectors", "Of matrices", "Affine"

# fmt: off
ROWS = (
    Row(ONE, lambda x: cp.abs(x), lambda x: x.abs()),
    Row(ONE, lambda x: cp.ceil(x), lambda x: x.ceil(), why="a step, quasiconvex at most"),
    Row(ONE, lambda x: cp.entr(x), lambda x: torch.special.entr(x), (0, inf)),
    Row(ONE, lambda x: cp.entr(x), lambda x: -x * x.log(), (0.01, inf)),
    Row(ONE, lambda x: cp.exp(x), lambda x: x.exp()),
    Row(ONE, lambda x: cp.floor(x), lambda x: x.floor(), why="a step, quasiconvex at most"),
    Row(ONE, lambda x: cp.huber(x), lambda x: 2 * F.huber_loss(x, torch.zeros_like(x), reduction="none")),
    Row(ONE, lambda x: cp.huber(x), lambda x: torch.where(x.abs() < 1, x**2, 2 * x.abs() - 1)),
    Row(ONE, lambda x: cp.inv_pos(x), lambda x: 1 / x, (0.01, inf)),
    Row(ONE, lambda x, y: cp.kl_div(x, y), lambda x, y: x * (x / y).log() - x + y, (0.01, inf)),
    Row(ONE, lambda x: cp.log(x), lambda x: x.log(), (0.01, inf)),
    Row(ONE, lambda x: cp.log1p(x), lambda x: x.log1p(), (0, inf)),
    Row(ONE, lambda x: cp.loggamma(x), lambda x: x.lgamma(), (0.01, inf), near=0.1),
    Row(ONE, lambda x: cp.logistic(x), lambda x: F.softplus(x)),
    Row(ONE, lambda x: cp.logistic(x), lambda x: (1 + x.exp()).log()),
    Row(ONE, lambda x: cp.log_normcdf(x), lambda x: torch.special.log_ndtr(x), near=0.1),
    Row(ONE, lambda x, y: cp.maximum(x, y), lambda x, y: torch.maximum(x, y)),
    Row(ONE, lambda x, y: cp.minimum(x, y), lambda x, y: torch.minimum(x, y)),
    Row(ONE, lambda x: cp.neg(x), lambda x: (-x).relu()),
    Row(ONE, lambda x: cp.pos(x), lambda x: x.relu()),
    Row(ONE, lambda x: cp.pos(x), lambda x: x * (x > 0)),
    Row(ONE, lambda x: cp.power(x, 4), lambda x: x**4),
    Row(ONE, lambda x: cp.power(x, 3), lambda x: x**3, (0, inf)),
    Row(ONE, lambda x: cp.power(x, 1.5), lambda x: x**1.5, (0, inf)),
    Row(ONE, lambda x: cp.power(x, 0.25), lambda x: x**0.25, (0, inf)),
    Row(ONE, lambda x: cp.power(x, -2), lambda x: x**-2, (0.01, inf)),
    Row(ONE, lambda x, y: cp.rel_entr(x, y), lambda x, y: x * (x / y).log(), (0.01, inf)),
    Row(ONE, lambda x: cp.scalene(x, 2, 3), lambda x: 2 * x.relu() + 3 * (-x).relu()),
    Row(ONE, lambda x: cp.sqrt(x), lambda x: x.sqrt(), (0, inf)),
    Row(ONE, lambda x: cp.square(x), lambda x: x.square()),
    Row(ONE, lambda x: cp.xexp(x), lambda x: x * x.exp(), (0, inf)),
    Row(VECTOR, lambda x: cp.cummax(x), lambda x: x.cummax(1).values),
    Row(VECTOR, lambda x: cp.cvar(x, 0.5), lambda x: (x.topk(2, 1).values * b).sum(1)),
    Row(VECTOR, lambda x: cp.dotsort(x, w.numpy()), lambda x: x.sort(1).values @ w),
    Row(VECTOR, lambda x: cp.geo_mean(x), lambda x: x.prod(1) ** (1 / 3), (0, inf)),
    Row(VECTOR, lambda x: cp.geo_mean(x), lambda x: x.log().mean(1).exp(), (0.01, inf)),
    Row(VECTOR, lambda x: cp.harmonic_mean(x), lambda x: 3 / (1 / x).sum(1), (0.01, inf)),
    Row(VECTOR, lambda x: cp.inv_prod(x), lambda x: 1 / x.prod(1), (0.01, inf)),
    Row(VECTOR, lambda x: cp.inv_prod(x), lambda x: (-x.log().sum(1)).exp(), (0.01, inf)),
    Row(VECTOR, lambda x: cp.log_sum_exp(x), lambda x: x.logsumexp(1)),
    Row(VECTOR, lambda x: cp.log_sum_exp(x), lambda x: x.exp().sum(1).log()),
    Row(VECTOR, lambda x: cp.max(x), lambda x: x.amax(1)),
    Row(VECTOR, lambda x: cp.min(x), lambda x: x.amin(1)),
    Row(VECTOR, lambda x: cp.norm1(x), lambda x: x.norm(p=1, dim=1)),
    Row(VECTOR, lambda x: cp.norm2(x), lambda x: x.norm(dim=1)),
    Row(VECTOR, lambda x: cp.norm2(x), lambda x: x.square().sum(1).sqrt()),
    Row(VECTOR, lambda x: cp.norm_inf(x), lambda x: torch.linalg.vector_norm(x, inf, dim=1)),
    Row(VECTOR, lambda x, t: cp.perspective(cp.sum(cp.exp(x)), t),
        lambda x, t: (t[:, None] * (x / t[:, None]).exp()).sum(1), (0.01, inf)),
    Row(VECTOR, lambda x, t: cp.perspective(cp.sum(cp.exp(x)), t),
        lambda x, t: t * (x / t[:, None]).exp().sum(1), (0.01, inf),
        why="the sum hides the perspective: multiply by t first, as above"),
    Row(VECTOR, lambda x: cp.pnorm(x, 3), lambda x: torch.linalg.vector_norm(x, 3, dim=1)),
    Row(VECTOR, lambda x: cp.pnorm(x, 0.5), lambda x: x.sqrt().sum(1).square(), (0, inf)),
    Row(VECTOR, lambda x: cp.prod(x),
        lambda x: x.prod(1), (0.01, inf), why="log-log convex only; its root, geo_mean, is concave"),
    Row(VECTOR, lambda x: cp.ptp(x), lambda x: x.amax(1) - x.amin(1)),
    Row(VECTOR, lambda x: cp.quad_form(x, P.numpy()), lambda x: ((x @ P) * x).sum(1)),
    Row(VECTOR, lambda x, t: cp.quad_over_lin(x, t), lambda x, t: x.square().sum(1) / t, (0.01, inf)),
    Row(VECTOR, lambda x: cp.std(x), lambda x: x.std(1, correction=0)),
    Row(VECTOR, lambda x: cp.sum_largest(x, 2), lambda x: x.topk(2, 1).values.sum(1)),
    Row(VECTOR, lambda x: cp.sum_smallest(x, 2), lambda x: x.topk(2, 1, largest=False).values.sum(1)),
    Row(VECTOR, lambda x: cp.sum_squares(x), lambda x: (x * x).sum(1)),
    Row(VECTOR, lambda x: cp.suppfunc(u, [cp.norm2(u) <= 2])(x), lambda x: 2 * x.norm(dim=1)),
    Row(VECTOR, lambda x: cp.tv(x), lambda x: x.diff(dim=1).abs().sum(1)),
    Row(VECTOR, lambda x: cp.var(x), lambda x: x.var(1, correction=0)),
    Row(MATRIX, lambda X: cp.lambda_max(X + X.T), lambda X: torch.linalg.eigvalsh(X + X.mT)[:, -1]),
    Row(MATRIX, lambda X: cp.lambda_min(X + X.T), lambda X: torch.linalg.eigvalsh(X + X.mT)[:, 0]),
    Row(MATRIX, lambda x: cp.lambda_sum_largest(cp.diag(x) + S.numpy(), 2),
        lambda x: torch.linalg.eigvalsh(x.diag_embed() + S)[:, 1:].sum(1)),
    Row(MATRIX, lambda x: cp.lambda_sum_smallest(cp.diag(x) + S.numpy(), 2),
        lambda x: torch.linalg.eigvalsh(x.diag_embed() + S)[:, :2].sum(1)),
    Row(MATRIX, lambda x: cp.log_det(cp.diag(x) + S.numpy()), lambda x: torch.logdet(x.diag_embed() + S), (0, inf)),
    Row(MATRIX, lambda x: cp.matrix_frac(x, P.numpy()), lambda x: ((x @ P.inverse()) * x).sum(1)),
    Row(MATRIX, lambda x: cp.matrix_frac(x, P.numpy()),
        lambda x: (x * torch.linalg.solve(P, x.mT).mT).sum(1),
        why="linalg.solve has no rule; use P.inverse(), as above"),
    Row(MATRIX, lambda x: cp.matrix_frac(a.numpy(), cp.diag(x) + S.numpy()),
        lambda x: torch.linalg.inv(x.diag_embed() + S) @ a @ a, (0, inf),
        why="of an inverse, only diagonal and trace have a rule"),
    Row(MATRIX, lambda X: cp.mixed_norm(X, 2, 1), lambda X: X.norm(dim=2).sum(1)),
    Row(MATRIX, lambda X: cp.norm(X, "fro"), lambda X: torch.linalg.matrix_norm(X)),
    Row(MATRIX, lambda X: cp.norm(X, 1), lambda X: torch.linalg.matrix_norm(X, 1)),
    Row(MATRIX, lambda X: cp.normNuc(X), lambda X: torch.linalg.matrix_norm(X, "nuc")),
    Row(MATRIX, lambda X: cp.sigma_max(X), lambda X: torch.linalg.matrix_norm(X, 2)),
    Row(MATRIX, lambda x: cp.tr_inv(cp.diag(x) + S.numpy()),
        lambda x: torch.linalg.inv(x.diag_embed() + S).diagonal(dim1=1, dim2=2).sum(1), (0, inf)),
    Row(MATRIX, lambda X: cp.tv(X),
        lambda X: torch.stack([X.diff(dim=1)[:, :, :-1], X.diff(dim=2)[:, :-1]]).norm(dim=0).sum((1, 2))),
    Row(MATRIX, lambda x: cp.von_neumann_entr(cp.diag(x) + S.numpy()),
        lambda x: torch.special.entr(torch.linalg.eigvalsh(x.diag_embed() + S)).sum(1), (0, inf),
        why="of eigenvalues, only sums of the largest or smallest have a rule"),
    Row(AFFINE, lambda x: A.numpy() @ x, lambda x: F.linear(x, A)),
    Row(AFFINE, lambda x: cp.bmat([[x, x]]), lambda x: torch.cat([x, x], 1)),
    Row(AFFINE, lambda x: cp.broadcast_to(x, (2, 3)), lambda x: x[:, None].expand(-1, 2, -1)),
    Row(AFFINE, lambda x, y: cp.concatenate([x, y]), lambda x, y: torch.cat([x, y], 1)),
    Row(AFFINE, lambda x: cp.convolve(a.numpy(), x),
        lambda x: F.conv1d(x[:, None], a.flip(0)[None, None], padding=2)[:, 0]),
    Row(AFFINE, lambda x: cp.cumsum(x), lambda x: x.cumsum(1)),
    Row(AFFINE, lambda x: cp.diag(x), lambda x: x.diag_embed()),
    Row(AFFINE, lambda X: cp.diag(X), lambda X: X.diagonal(dim1=1, dim2=2)),
    Row(AFFINE, lambda x: cp.diff(x), lambda x: x.diff(dim=1)),
    Row(AFFINE, lambda X: cp.einsum("ij,kj->ki", X, A[:, :2].numpy()),
        lambda X: torch.einsum("bij,kj->bki", X, A[:, :2])),
    Row(AFFINE, lambda x, y: cp.hstack([x, y]), lambda x, y: torch.hstack([x, y])),
    Row(AFFINE, lambda X: cp.kron(A.numpy(), X), lambda X: torch.einsum("ij,bkl->bikjl", A, X).reshape(-1, 4, 6)),
    Row(AFFINE, lambda X: cp.kron(A.numpy(), X),
        lambda X: torch.kron(A[None], X), why="torch.kron has no rule; use einsum, as above"),
    Row(AFFINE, lambda x: cp.mean(x), lambda x: x.mean(1)),
    Row(AFFINE, lambda X: cp.moveaxis(X, 0, 1), lambda X: X.movedim(1, 2)),
    Row(AFFINE, lambda x: cp.multiply(a.numpy(), x), lambda x: a * x),
    Row(AFFINE, lambda x: cp.outer(x, a.numpy()), lambda x: x[:, :, None] * a),
    Row(AFFINE, lambda Z: cp.partial_trace(Z, (2, 2), 1),
        lambda Z: torch.einsum("bijkj->bik", Z.reshape(-1, 2, 2, 2, 2))),
    Row(AFFINE, lambda Z: cp.partial_transpose(Z, (2, 2), 0),
        lambda Z: Z.reshape(-1, 2, 2, 2, 2).transpose(1, 3).reshape(-1, 4, 4)),
    Row(AFFINE, lambda X: cp.permute_dims(X, (1, 0)), lambda X: X.permute(0, 2, 1)),
    Row(AFFINE, lambda X: cp.reshape(X, (4,), order="C"), lambda X: X.reshape(-1, 4)),
    Row(AFFINE, lambda x: cp.scalar_product(a.numpy(), x), lambda x: x @ a),
    Row(AFFINE, lambda X: cp.squeeze(cp.reshape(X, (1, 4), order="C")), lambda X: X.reshape(-1, 1, 4).squeeze(1)),
    Row(AFFINE, lambda x, y: cp.stack([x, y]), lambda x, y: torch.stack([x, y], 1)),
    Row(AFFINE, lambda x: cp.sum(x), lambda x: x.sum(1)),
    Row(AFFINE, lambda X: cp.swapaxes(X, 0, 1), lambda X: X.swapaxes(1, 2)),
    Row(AFFINE, lambda X: cp.trace(X), lambda X: torch.einsum("bii->b", X)),
    Row(AFFINE, lambda X: cp.transpose(X), lambda X: X.mT),
    Row(AFFINE, lambda X: cp.upper_tri(X), lambda X: X[:, *torch.triu_indices(2, 2, 1)]),
    Row(AFFINE, lambda x: cp.vdot(a.numpy(), x), lambda x: torch.einsum("bi,i->b", x, a)),
    Row(AFFINE, lambda X: cp.vec(X, order="C"), lambda X: X.flatten(1)),
    Row(AFFINE, lambda x: cp.vec_to_upper_tri(x, strict=True),
        lambda x: F.pad(x, (1, 0))[:, [0, 1, 2, 0, 0, 3, 0, 0, 0]].reshape(-1, 3, 3)),
    Row(AFFINE, lambda x, y: cp.vstack([x, y]), lambda x, y: torch.stack([x, y], 1)),
)
# fmt: on

LEFT_OUT = {
    "quasiconvex, or neither": "condition_number dist_ratio gen_lambda_max length sign",
    "for geometric programs": "cumprod diff_pos eye_minus_inv gmatmul one_minus_pos pf_eigenvalue resolvent",
    "of complex numbers, or of logarithms of matrices": "conj imag real quantum_cond_entr quantum_rel_entr",
    "other names, and marks that change no value": (
        "conv deep_flatten hermitian_wrap matmul promote psd_wrap skew_symmetric_wrap symmetric_wrap"
    ),
}
"""Atoms without a row, by the reason."""


class Wide(nn.Module):
    """f, -f, and the sums of their elements, of one input that holds all arguments: one trace serves all questions."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.ours, self.shapes = row.ours, [SHAPES[name] for name in row.arguments]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        f = self.ours(*split(z, self.shapes))
        total = f.flatten(1).sum(1) if f.ndim > 1 else f
        return f, -f, total, -total


class Total(nn.Module):
    """The sum of the elements of f, or of -f: what solvers and exporters take, as a user would hand it over."""

    def __init__(self, row: Row, output: int) -> None:
        super().__init__()
        self.wide, self.output = Wide(row), output

    def forward(self, z: Tensor) -> Tensor:
        return self.wide(z.double())[self.output]  # the constants of the rows are of float64


class Tilted(Total):
    """Besides, a slope against that of the sum at a point of a box."""

    def __init__(self, row: Row, output: int, seed: int, box: tuple[float, float]) -> None:
        super().__init__(row, output)
        share = torch.rand(1, *row.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        at = (box[0] + (box[1] - box[0]) * share).requires_grad_()
        (slope,) = torch.autograd.grad(super().forward(at).sum(), at)
        self.slope: Tensor
        self.register_buffer("slope", -0.9 * slope[0])  # of an affine one something is left

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z) + (z.double() * self.slope).flatten(1).sum(1)


def split(z: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """The arguments that an input holds."""
    if len(shapes) == 1:
        return [z]
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    return [z[:, end - math.prod(shape) : end].reshape(-1, *shape) for end, shape in zip(ends, shapes, strict=True)]


@dataclass(frozen=True)
class Found:
    """What was found out about a row.

    Attributes:
        curvature: as certified; "unknown" where it is not.
        negative: whether -f is certified convex.
        theirs: the curvature according to CVXPY.
        total: the output of `Wide` that can be minimised.
        fast: whether `minimise` opens it.
        exports: the exporters that take it.
        refused: why none does.
    """

    curvature: str
    negative: bool
    theirs: str
    total: int = 2
    fast: bool = False
    exports: tuple[str, ...] = ()
    refused: str = ""


@cache
def found(row: Row) -> Found:
    """Trace a row once, and ask."""
    program = trace(Wide(row), (row.points(BATCH),))
    domain = None if row.box is None else row.bounds
    mine = certify_program(output_of(program, 0), 0, domain)
    negative = certify_program(output_of(program, 1), 0, domain).convex
    theirs = row.atom(*variables(row)).curvature.lower()
    if not (mine.convex or negative):
        return Found(mine.curvature, negative, theirs)
    total = 2 if mine.convex else 3
    single = output_of(program, total)
    everywhere = certify_program(single, 0).convex
    fast = is_fast(row, opened(single, None), everywhere)
    exports, refused = exporters(opened(single, ()), domain)
    return Found(mine.curvature, negative, theirs, total, fast, exports, refused)


def output_of(program: Program, output: int) -> Program:
    return replace(program, outputs=(program.outputs[output],))


def opened(program: Program, parameters: tuple[int, ...] | None) -> OpenedProgram:
    return OpenedProgram(program, 0, parameters, paired=parameters is not None).valued(values_of(program))


def is_fast(row: Row, program: OpenedProgram, everywhere: bool) -> bool:
    """Whether `minimise` opens a program at its atoms, or takes its values and tangents alone."""
    inputs, bounds = [torch.zeros(BATCH, *row.shape, dtype=torch.float64)], row.bounds
    lo, hi = (end.flatten().expand(BATCH, -1).double() for end in (bounds.lo, bounds.hi))
    try:
        with torch.no_grad():
            form, layers, _ = open_functions(program, Pieces(program), inputs, lo.shape[1], "auto")
    except Refusal:
        return False
    whole = everywhere and not any(atom.partial for atom in form.atoms)
    return is_supported(layers, lo, hi, 1 if whole else 3)


def exporters(program: OpenedProgram, domain: cx.Box | None) -> tuple[tuple[str, ...], str]:
    """The exporters that take a program, and why none does."""
    try:
        sample = Sample(program, [tensor[:1] for tensor in program.program.inputs], BATCH)
        check_tight(sparse_form(sample), "", domain)
    except cx.NotCertified as error:
        finding = error.findings[0]
        return (), f"{finding.operator.removeprefix('aten.')}: {finding.reason}"
    atoms = [cut.atom for cut in sample.cuts if isinstance(cut.atom, Atom)]
    if any(atom.cones == NO_CONE for atom in atoms):
        return (), "no cone that solvers know describes it"
    linear = all(atom.piecewise_linear or atom.polyhedral for atom in atoms)
    return (("to_cvxpy", "to_lp") if linear else ("to_cvxpy",)), ""


def variables(row: Row) -> list[Any]:
    """The arguments in CVXPY. It is told their sign, which some of its atoms ask for."""
    return [cp.Variable(SHAPES[name], nonneg=row.box is not None and row.box[0] >= 0) for name in row.arguments]


def values(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """The values of both at the same points, (POINTS, ...) each, flattened."""
    z, symbols, shapes = row.points(POINTS), variables(row), [SHAPES[name] for name in row.arguments]
    expression, theirs = row.atom(*symbols), []
    for point in z:
        for symbol, part in zip(symbols, split(point[None], shapes), strict=True):
            symbol.value = part[0].numpy()
        theirs.append(np.asarray(expression.value).ravel())
    return row.ours(*split(z, shapes)).reshape(POINTS, -1).numpy(), np.stack(theirs)


# --- the page --------------------------------------------------------------------------------------------------------


@cache
def written() -> dict[Row, tuple[str, str]]:
    """The two functions of every row, as they are written in this file."""
    source = Path(__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Row"
    ]
    shown: dict[Row, tuple[str, str]] = {}
    for row, call in zip(ROWS, sorted(calls, key=lambda call: call.lineno), strict=True):
        bodies = [argument.body for argument in call.args[1:3] if isinstance(argument, ast.Lambda)]
        atom, ours = (" ".join(segment(lines, body).split()) for body in bodies)
        shown[row] = atom.replace("cp.", "").replace(".numpy()", ""), ours
    return shown


def segment(lines: list[str], node: ast.expr) -> str:
    """The text of an expression; `ast.get_source_segment` would take the whole file apart into lines for each.

    The columns of a node count bytes, which is the same here: a line with other characters is refused.
    """
    assert node.end_lineno is not None
    own = lines[node.lineno - 1 : node.end_lineno]
    assert all(line.isascii() for line in own)
    own[-1] = own[-1][: node.end_col_offset]
    own[0] = own[0][node.col_offset :]
    return "\n".join(own)


def names() -> set[str]:
    """The atoms that rows are about, and those that are left out."""
    rows = {match[1] for atom, _ in written().values() if (match := re.match(r"(\w+)\(", atom))}
    return rows | {name for listed in LEFT_OUT.values() for name in listed.split()}


def line_of(row: Row) -> str:
    """A row as a line of the table."""
    what, (atom, ours) = found(row), written()[row]
    lo, hi = row.box or (-inf, inf)
    where = "" if row.box is None else f"≥ {lo:g}" if hi == inf else f"{lo:g} to {hi:g}"
    certified = f"not certified: {row.why}" if what.curvature == "unknown" else what.curvature
    taken = [] if what.curvature == "unknown" else ["opened" if what.fast else "as a whole"]
    exports = ", ".join(f"`{name}`" for name in what.exports) or (what.refused and f"no: {what.refused}")
    return f"| `{atom}` | `{ours}` | {where} | {certified} | {what.theirs} | {''.join(taken)} | {exports} |"


def table() -> str:
    """The table of the page, and the atoms without a row."""
    text = ""
    for kind in dict.fromkeys(row.kind for row in ROWS):
        text += f"\n## {kind}\n\n| CVXPY | PyTorch | where | certified | by CVXPY | `minimise` | exports |\n"
        text += "|---|---|---|---|---|---|---|\n"
        text += "".join(f"{line_of(row)}\n" for row in ROWS if row.kind == kind)
    text += "\n## Without a row\n\n"
    for reason, listed in LEFT_OUT.items():
        text += f"- {reason[0].upper()}{reason[1:]}: {', '.join(f'`{name}`' for name in listed.split())}.\n"
    return text + "\n"


def rewritten(page: str) -> str:
    """The page with the rows as they are found now."""
    before, rest = page.split(MARKS[0])
    return before + MARKS[0] + table() + MARKS[1] + rest.split(MARKS[1])[1]


if __name__ == "__main__":
    if sys.argv[1:] != ["write"]:
        sys.exit(f"usage: {COMMAND}")
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""Quadratic forms that are written as products of two affine quantities, such as ((x @ P) * x).sum(1).

The second derivative is read off the operators once, by automatic differentiation; it is positive semidefinite where
the calculus has certified the form. Solvers iterate with it. What a bound rests on is the operators themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, fx

from convexnet.curvature.patterns.quadratic_forms import is_product as multiplies
from convexnet.curvature.rules.arithmetic import mul
from convexnet.curvature.table import row_of
from convexnet.curvature.tracing.graph import base_name
from convexnet.form.atoms import Atom
from convexnet.form.execution import Applied, execute
from convexnet.form.grouped import split_into_groups

MOST = 512
"""Variables times results up to which second derivatives are looked for."""

SEMIDEFINITE = 1e-10
"""How negative an eigenvalue may be, as a share of the largest."""

Run = Callable[[Any, Applied | None], Any]
"""The operators: from y (B, ...) to the results (B, ...)."""


@final
class QuadraticAtom(Atom):
    """½ a' H a + g a + c of each group.

    Args:
        hessian: H, (out, n, n).
        slope: g, (out, n).
        constant: c, (out,).
        run: the operators that it stands for, of the arguments of one group.
    """

    smooth = True
    cones = "soc"
    lifts = False

    def __init__(self, hessian: Tensor, slope: Tensor, constant: Tensor, run: Run) -> None:
        self.hessian, self.linear, self.constant, self.run = hessian, slope, constant, run
        self.group = hessian.shape[-1]

    @property
    def rises(self) -> bool:
        return False

    def nonneg(self, arguments: Tensor) -> Tensor:
        return torch.zeros_like(arguments.reshape(-1, self.group)[:, 0])

    def times(self, x: Tensor) -> Tensor:
        """H x of each group."""
        return (self.hessian @ split_into_groups(x, self.group)[..., None]).flatten(-3)

    def root(self) -> Tensor:
        """R (out, n, n) with R' R = H."""
        values, vectors = torch.linalg.eigh(self.hessian)
        return values.clamp(min=0).sqrt()[..., None] * vectors.mT

    def value(self, a: Tensor) -> Tensor:
        return split_into_groups(a * (self.times(a) / 2 + self.linear.flatten()), self.group).sum(-1) + self.constant

    def slopes(self, a: Tensor) -> Tensor:
        return self.times(a) + self.linear.flatten()

    def smoothed(self, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(a), self.slopes(a)

    def curved(self, a: Tensor, z: Tensor, slopes: Tensor, mu: Tensor) -> Tensor:
        return torch.ones_like(a) if self.group > 1 else self.hessian.flatten().clamp(min=0).expand_as(a)

    def fit(self, multipliers: Tensor, a: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        return self.pull(self.slopes(a), arriving), (arriving * (self.value(a) - self.push(self.slopes(a), a))).sum(1)

    def push(self, slopes: Tensor, x: Tensor) -> Tensor:
        return split_into_groups(slopes * x, self.group).sum(-1)

    def pull(self, slopes: Tensor, v: Tensor) -> Tensor:
        return (split_into_groups(slopes, self.group) * v[..., None]).flatten(-2)

    def change_of_slopes(self, curved: Tensor, x: Tensor) -> Tensor:
        return self.times(x)

    def curvature_times(self, v: Tensor, change: Tensor) -> Tensor:
        return v.repeat_interleave(self.group, -1) * change

    def mean(self, curved: Tensor, x: Tensor) -> Tensor:
        """What does not count of x."""
        return x - self.times(x)

    def centred(self, curved: Tensor, rows: Tensor) -> Tensor:
        if self.group == 1:  # as an atom of single arguments, whose curvature is `curved`
            return rows
        return (self.root() @ rows.unflatten(1, (-1, self.group))).flatten(1, 2)

    def keep_inside(self, old: Tensor, new: Tensor, least: float) -> Tensor:
        return new

    def slopes_of(self, multipliers: Tensor, arriving: Tensor) -> Tensor:
        return multipliers / torch.where(arriving > 0, arriving, 1.0).repeat_interleave(self.group, -1)

    def active(self, a: Tensor, slopes: Tensor, unit: Tensor) -> Tensor:
        return torch.full_like(a, -1.0)

    def map_settings(self, change: Callable[[Tensor], Tensor]) -> QuadraticAtom:
        return QuadraticAtom(change(self.hessian), change(self.linear), change(self.constant), self.run)

    def in_units(self, unit: Tensor) -> tuple[Atom, Tensor]:
        size = split_into_groups(unit, self.group)[..., 0]
        scaled = self.hessian * size[:, None, None] ** 2, self.linear * size[:, None], self.constant
        return QuadraticAtom(*scaled, self.run), torch.ones_like(size)

    def typical(self, sizes: Tensor) -> Tensor:
        return torch.ones_like(sizes)


class Degrees:
    """Which nodes are affine or quadratic in the variable, and which of these hold a product of two quantities.

    Args:
        nodes: of a program, in order.
        moving: those that depend on the variable.
        root: the variable.
        straight: whether the rule of an operator makes affine results of affine arguments.
        env: the values of all nodes.
        fixed: nodes whose values are the same for all inputs.
    """

    def __init__(
        self,
        nodes: Sequence[fx.Node],
        moving: Collection[fx.Node],
        root: fx.Node | None,
        straight: Callable[[fx.Node], bool],
        env: Mapping[fx.Node, Any],
        fixed: Collection[fx.Node],
    ) -> None:
        self.root, self.env, self.fixed = root, env, fixed
        self.order = [node for node in nodes if node in moving]
        self.degree: dict[fx.Node, int] = {} if root is None else {root: 1}
        self.products: set[fx.Node] = set()
        factors = [node for node in self.order if is_product(node, moving)]
        for node in self.order if factors else ():
            read = [self.degree.get(part) for part in node.all_input_nodes if part in moving]
            if node.op != "call_function" or not read or None in read:
                continue
            highest = max(part for part in read if part is not None)
            if is_product(node, moving):
                if highest == 1:
                    self.degree[node] = 2
                    self.products.add(node)
            elif node.target is operator.getitem or straight(node):
                self.degree[node] = highest
                if self.products.intersection(node.all_input_nodes):
                    self.products.add(node)

    def atom(self, node: fx.Node) -> QuadraticAtom | None:
        """The quadratic form that a node is, if it is convex in each of its results."""
        if self.root is None or node not in self.products or not isinstance(self.env[node], Tensor):
            return None
        y, out = self.env[self.root], self.env[node]
        if out.ndim == 0 or out.shape[0] != y.shape[0] or y[0].numel() * out[0].numel() > MOST:
            return None
        chain = self.chain(node)
        if chain is None:
            return None
        run = runner(self.root, chain, self.env)
        with torch.enable_grad():
            at = torch.zeros_like(y[:1].expand(y.shape)).requires_grad_()
            results = run(at, None).reshape(len(y), -1)
            slopes, hessians = list[Tensor](), list[Tensor]()
            for each in results[0]:
                (slope,) = torch.autograd.grad(each, at, create_graph=True, materialize_grads=True)
                slopes.append(slope[0].flatten())
                rows = [
                    torch.autograd.grad(part, at, retain_graph=True, materialize_grads=True, allow_unused=True)[0][0]
                    if part.requires_grad
                    else torch.zeros_like(y[0])
                    for part in slopes[-1]
                ]
                hessians.append(torch.stack([row.flatten() for row in rows]))
        hessian = torch.stack(hessians)
        hessian = (hessian + hessian.mT) / 2
        values = torch.linalg.eigvalsh(hessian)
        if bool((values[:, 0] < -SEMIDEFINITE * values.abs().amax(1)).any()):
            return None
        return QuadraticAtom(hessian, torch.stack(slopes).detach(), results[0].detach(), run)

    def chain(self, node: fx.Node) -> list[fx.Node] | None:
        """The nodes from the variable to this one, in order; None where other inputs or the size of the batch enter."""
        found, pending = set[fx.Node](), [node]
        while pending:
            part = pending.pop()
            if part in self.degree and part is not self.root:
                pending += [each for each in part.all_input_nodes if each not in found]
                found.add(part)
            elif part is not self.root and part not in self.fixed:
                return None
        return [part for part in self.order if part in found]


def is_product(node: fx.Node, moving: Collection[fx.Node]) -> bool:
    """Whether a node multiplies two quantities that depend on the variable, and are not the same."""
    if node.op != "call_function" or not multiplies(row := row_of(base_name(node.target))):
        return False
    read: list[fx.Node] = []
    factors = (arg for place, arg in enumerate(node.args) if place != row.added)
    fx.map_arg(tuple(factors), lambda part: read.append(part) if part in moving else None)
    return len(read) == 2 and (read[0] is not read[1] or not row.runs(mul))


def runner(root: fx.Node, chain: Sequence[fx.Node], env: Mapping[fx.Node, Any]) -> Run:
    """The operators of a chain as a function of the variable."""
    held = {
        part: env[part] for node in chain for part in node.all_input_nodes if part not in chain and part is not root
    }

    def run(y: Any, apply: Applied | None) -> Any:
        values: dict[fx.Node, Any] = {**held, root: y}
        for node in chain:
            args: Any = fx.map_arg(node.args, values.__getitem__)
            kwargs: Any = fx.map_arg(node.kwargs, values.__getitem__)
            values[node] = args[0][args[1]] if node.target is operator.getitem else execute(node, args, kwargs, apply)
        return values[chain[-1]]

    return run

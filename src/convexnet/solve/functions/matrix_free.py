"""A network as the operators it is written with, for inputs and layers too large for matrices.

The same functions as an `EpigraphForm`, with the same minorants: forwards the program runs with its atoms, or with
smooth ones in their place; backwards automatic differentiation carries the multipliers through the affine operators,
and at every atom those that a solver wants take the place of the derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.form.atoms import Atom
from convexnet.form.program import OpenedProgram, apply_atom, atom_of

Choice = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(k, a_k (B, in_k), what arrives (B, out_k)) -> multipliers (B, in_k) of the arguments and an intercept (B,)."""


class ReplacedGradient(torch.autograd.Function):
    """(a, z, pulled) -> z, and backwards v -> pulled(v)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, z: Tensor, pulled: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.pulled = pulled
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return ctx.pulled(grads[0]), None, None


@dataclass
class Sweep:
    """What one pass forwards and one backwards give: the output (B,), and an affine function g y + b of y."""

    value: Tensor
    g: Tensor
    b: Tensor
    arguments: list[Tensor]
    multipliers: list[Tensor]


class MatrixFree:
    """A batch of B convex functions of y in R^n.

    Args:
        opened: the program, certified convex in its variable.
        inputs: the batch, (B, ...) each; the variable's own values do not matter.
        atoms: those of the program, where they are known.
        shift: what is taken off the functions, (B,).

    Example:
        >>> from torch import nn
        >>> from convexnet.curvature.tracing.trace import trace
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> for p in net.parameters():
        ...     _ = nn.init.ones_(p)
        >>> y = torch.zeros(1, 2)
        >>> layers = MatrixFree(OpenedProgram(trace(net, y, any_batch=True), 0), (y,))  # 2 relu(y_1 + y_2)
        >>> [part.tolist() for part in layers.subgradient(torch.tensor([[1.0, 2.0]]))]
        [[6.0], [[2.0, 2.0]]]
        >>> [part.tolist() for part in layers.minorant([torch.full((1, 2), 0.25)], layers.arguments(y))]
        [[[0.5, 0.5]], [0.0]]
    """

    def __init__(
        self,
        opened: OpenedProgram,
        inputs: Sequence[Tensor],
        atoms: Sequence[Atom] | None = None,
        shift: Tensor | None = None,
    ) -> None:
        self.opened = opened
        self.inputs = tuple(inputs)
        self.shape = inputs[opened.variable].shape[1:]
        self.atoms = tuple(atoms_of(opened, inputs)) if atoms is None else tuple(atoms)
        self.shift = shift
        self.still: dict[int, dict[fx.Node, Any]] = {}  # what does not move with y, by the number of rows

    @property
    def batch(self) -> int:
        """B."""
        return self.inputs[0].shape[0]

    @property
    def size(self) -> int:
        """n."""
        return self.shape.numel()

    @property
    def piecewise_linear(self) -> bool:
        """Whether all atoms are."""
        return all(atom.piecewise_linear for atom in self.atoms)

    @property
    def smooth(self) -> bool:
        """Whether no atom has a kink."""
        return all(atom.smooth for atom in self.atoms)

    @property
    def width(self) -> int:
        """Arguments of all atoms."""
        origin = torch.zeros(self.batch, self.size, dtype=torch.float64, device=self.inputs[0].device)
        return sum(a.shape[1] for a in self.arguments(origin))

    def rows(self, index: Tensor) -> MatrixFree:
        """The functions of some samples."""
        shift = None if self.shift is None else self.shift[index]
        return MatrixFree(self.opened, [tensor[index] for tensor in self.inputs], self.atoms, shift)

    def centred(self) -> MatrixFree:
        """The same functions without what is constant in them: their value where y and all results are zero."""
        origin = torch.zeros(self.batch, self.size, dtype=torch.float64, device=self.inputs[0].device)

        def nothing(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
            return torch.zeros_like(apply_atom(a, atom))

        with torch.no_grad():
            shift = self.run(origin, nothing)
        shift = shift if self.shift is None else shift + self.shift
        return MatrixFree(self.opened, self.inputs, self.atoms, torch.where(shift.isfinite(), shift, 0.0))

    def run(self, y: Tensor, atom: Callable[..., Tensor]) -> Tensor:
        """The program at y (B, n) with other functions for its atoms, (B,)."""
        inputs = list(self.inputs)
        inputs[self.opened.variable] = y.reshape(-1, *self.shape)
        still = self.still.setdefault(len(y), {})
        out = self.opened.run(inputs, atom, still=still).expand(len(y))
        return out if self.shift is None else out - self.shift

    def value(self, y: Tensor) -> Tensor:
        """f(y), (B,)."""
        with torch.no_grad():
            return self.run(y, keep_unchanged)

    def arguments(self, y: Tensor) -> list[Tensor]:
        """What arrives at each atom, (B, in_k), at y (B, n)."""
        found: list[Tensor] = []

        def seen(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
            found.append(a.flatten(1))
            return apply_atom(a, atom)

        with torch.no_grad():
            self.run(y, seen)
        return found

    def subgradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f(y) (B,) and a subgradient (B, n) there."""

        def choice(k: int, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return self.atoms[k].pull(self.atoms[k].slopes(a), v), v.new_zeros(len(v))

        sweep = self.sweep(y, lambda k, a: self.atoms[k].value(a), choice)
        return sweep.value, sweep.g

    def minorant(self, slopes: Sequence[Tensor], arguments: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """An affine function g y + b below f, (B, n) and (B,).

        Args:
            slopes: for each atom, clipped to its range.
            arguments: where tangents of smooth atoms touch.
        """
        return self.below(lambda k, a, v: self.atoms[k].fit(self.atoms[k].pull(slopes[k], v), arguments[k], v))

    def fit(
        self, wanted: Mapping[int, Tensor], arguments: Sequence[Tensor]
    ) -> tuple[dict[int, Tensor], tuple[Tensor, Tensor]]:
        """The multipliers nearest to those wanted that give an affine function g y + b below f, and that function."""
        chosen: dict[int, Tensor] = {}

        def choice(k: int, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            chosen[k], rest = self.atoms[k].fit(wanted[k], arguments[k], v)
            return chosen[k], rest

        affine = self.below(choice)
        return {k: chosen.get(k, torch.zeros_like(a)) for k, a in enumerate(arguments)}, affine

    def below(self, choice: Choice) -> tuple[Tensor, Tensor]:
        """The affine function of y that multipliers of the arguments make."""
        origin = torch.zeros(self.batch, self.size, dtype=torch.float64, device=self.inputs[0].device)
        sweep = self.sweep(origin, lambda k, a: a.new_zeros(len(a), a.shape[1] // self.atoms[k].group), choice)
        return sweep.g, sweep.b

    def sweep(self, y: Tensor, result: Callable[[int, Tensor], Tensor], choice: Choice) -> Sweep:
        """Forwards with any results z_k of the atoms, backwards with the multipliers that are chosen.

        The program is affine between its atoms, so that for multipliers λ_k of the arguments, where v_k arrives at the
        results, out − Σ v_k z_k + Σ λ_k a_k is the same affine function of y whatever the z_k are.
        """
        point = y.detach().clone().requires_grad_()
        found: list[Tensor] = []
        rests: list[Tensor] = []
        multipliers: list[Tensor] = []

        def replaced(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
            k = len(found)
            flat = a.flatten(1).expand(len(y), -1)
            here = flat.detach()
            found.append(here)
            multipliers.append(torch.zeros_like(here))
            z = result(k, here)

            def pulled(v: Tensor) -> Tensor:
                chosen, rest = choice(k, here, v.clamp(min=0))  # non-negative but for rounding
                multipliers[k] = chosen
                rests.append(rest + (chosen * here).sum(1) - (v * z).sum(1))
                return chosen

            shape = a.shape[1:] if self.atoms[k].group == 1 else a.shape[1:-1]
            return replace_gradient(flat, z, pulled).reshape(len(y), *shape)

        with torch.enable_grad():
            out = self.run(point, replaced)
        if out.requires_grad:
            ones = torch.ones_like(out)  # a sum would be lost where gradients are switched off
            (g,) = torch.autograd.grad(out, point, ones, allow_unused=True, materialize_grads=True)
        else:
            g = torch.zeros_like(point)
        value = out.detach()
        b = value - (g * y).sum(1)
        for rest in rests:
            b = b + rest
        return Sweep(value, g, b, found, multipliers)

    def products(self, y: Tensor, results: Sequence[Tensor]) -> tuple[list[Tensor], Callable[..., list[Tensor]]]:
        """What arrives at each atom for y (B, n) and results (B, out_k) of the atoms, and the transposed product: from
        multipliers (B, in_k) to the slopes in y and in each z_k of out + Σ λ_k a_k."""
        leaves = [part.detach().clone().requires_grad_() for part in (y, *results)]
        arrived: list[Tensor] = []

        def replaced(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
            k = len(arrived)
            arrived.append(a.flatten(1).expand(len(y), -1))
            shape = a.shape[1:] if self.atoms[k].group == 1 else a.shape[1:-1]
            return leaves[k + 1].reshape(len(y), *shape)

        with torch.enable_grad():
            out = self.run(leaves[0], replaced)

        def transposed(multipliers: Sequence[Tensor]) -> list[Tensor]:
            pairs = [(out, torch.ones_like(out)), *zip(arrived, multipliers, strict=True)]
            pairs = [(tensor, weight) for tensor, weight in pairs if tensor.requires_grad]
            if not pairs:
                return [torch.zeros_like(leaf) for leaf in leaves]
            heads, weights = zip(*pairs, strict=True)
            return list(torch.autograd.grad(heads, leaves, weights, True, allow_unused=True, materialize_grads=True))

        return [a.detach() for a in arrived], transposed


def keep_unchanged(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
    return apply_atom(a, atom)


def replace_gradient(a: Tensor, z: Tensor, pulled: Callable[[Tensor], Tensor]) -> Tensor:
    """`ReplacedGradient`, with types."""
    return ReplacedGradient.apply(a, z, pulled)


def atoms_of(opened: OpenedProgram, inputs: Sequence[Tensor]) -> list[Atom]:
    """The atoms of a program, with which of their arguments are convex or concave: those that see results of others."""
    found: list[Atom] = []
    leaves: list[Tensor] = []
    seen: list[Tensor] = []

    def record(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
        atom = atom_of(a, atom)
        found.append(atom)
        seen.append(a)
        leaves.append(apply_atom(a, atom).detach().requires_grad_())
        return leaves[-1]

    some = list(inputs) if opened.gated else [tensor[:1] for tensor in inputs]  # what is no slope is the same for all
    with torch.enable_grad():
        opened.run(some, record)
    generator = torch.Generator().manual_seed(0)
    for k, a in enumerate(seen):
        if a.requires_grad:
            weight = torch.zeros_like(a).requires_grad_()
            moved = torch.autograd.grad(
                a, leaves[:k], weight, create_graph=True, allow_unused=True, materialize_grads=True
            )
            ahead = sum(
                (part * torch.rand(part.shape, generator=generator, dtype=torch.float64).to(a.device)).sum()
                for part in moved
            )
            if isinstance(ahead, Tensor) and ahead.requires_grad:  # how much a moves where all results do, upwards
                (along,) = torch.autograd.grad(ahead, weight, retain_graph=True)
                signs = along.flatten(1).sign()
                found[k] = found[k].with_signs(torch.where((signs == signs[0]).all(0), signs[0], 1.0))
    return found

"""A network with smoothed atoms: its value, its gradient, and the minorant of the network itself that they give.

The slopes of a smoothed atom lie in the range of the atom, so that what automatic differentiation carries back through
them is an affine function below the network that is not smoothed (Nesterov 2005, Smooth minimization of non-smooth
functions, for the slopes of all layers at once). Its slope is the gradient, and it costs nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.grouped import Largest, split_into_groups
from convexnet.solve.functions.matrix_free import MatrixFree, Sweep
from convexnet.solve.functions.problem import Function


def smooth_results(atom: Atom, a: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """Results above those of an atom by at most a multiple of mu (B, 1), and slopes that are their derivative.

    Of a largest entry, mu log sum exp(a / mu) and the softmax.

    Example:
        >>> smooth_results(Largest(2), torch.zeros(1, 2), torch.ones(1, 1))
        (tensor([[0.6931...]]), tensor([[0.5000, 0.5000]]))
    """
    if isinstance(atom, Largest):
        parts = split_into_groups(a, atom.group) / mu[..., None]
        return mu * parts.logsumexp(-1), parts.softmax(-1).flatten(-2)
    return atom.smoothed(a, mu)


def smooth_function(f: Function, y: Tensor, mu: Sequence[Tensor]) -> Sweep:
    """The functions smoothed by amounts (B, 1) at each atom: values and gradients g at y, and b with g x + b <= f(x).

    Where the atoms are not known, f itself and its tangent.

    Example:
        >>> from convexnet.form.atoms import Kinks
        >>> from convexnet.form.linear_maps import Map
        >>> one = torch.ones(1, 1)
        >>> size = EpigraphForm(
        ...     (0 * one,), (Kinks(-one[0]),), (Map(one),), {}, torch.zeros(1), 0 * one, {0: one}
        ... )  # |y|
        >>> sweep = smooth_function(size, 3 * one, [2 * one])
        >>> sweep.value.item(), sweep.g.item(), sweep.b.item()  # 3/5 y lies below
        (5.0, 0.6000..., 0.0)
    """
    if not isinstance(f, (EpigraphForm, MatrixFree)):
        value, g = f.subgradient(y)
        return Sweep(value, g, value - (g * y).sum(1), [], [])
    slopes: list[Tensor] = []

    def result(k: int, a: Tensor) -> Tensor:
        z, slope = smooth_results(f.atoms[k], a, mu[k])
        slopes.append(slope)
        return z

    def choice(k: int, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return f.atoms[k].fit(f.atoms[k].pull(slopes[k], v), a, v)

    if isinstance(f, MatrixFree):
        return f.sweep(y, result, choice)
    results: list[Tensor] = []
    arguments: list[Tensor] = []
    for k in range(len(f.atoms)):
        arguments.append(f.argument(k, y, results))
        results.append(result(k, arguments[k]))
    chosen: dict[int, Tensor] = {}
    intercept = f.constant
    for k in reversed(range(len(f.atoms))):
        chosen[k], rest = choice(k, arguments[k], f.arriving(k, chosen))
        intercept = intercept + rest
    multipliers = [chosen[k] for k in range(len(f.atoms))]
    return Sweep(f.value_of(y, results), *f.affine(chosen, intercept), arguments, multipliers)


def smoothed_value_alone(f: Function, y: Tensor, mu: Sequence[Tensor]) -> Tensor:
    """The value of `smooth_function` alone, (B,)."""
    if not isinstance(f, (EpigraphForm, MatrixFree)):
        return f.value(y)
    results: list[Tensor] = []
    if isinstance(f, EpigraphForm):
        for k, atom in enumerate(f.atoms):
            results.append(smooth_results(atom, f.argument(k, y, results), mu[k])[0])
        return f.value_of(y, results)

    def result(a: Tensor, _: object = 0.0) -> Tensor:
        atom = f.atoms[len(results)]
        results.append(smooth_results(atom, a.flatten(1), mu[len(results)])[0])
        return results[-1].reshape(a.shape if atom.group == 1 else a.shape[:-1])

    with torch.no_grad():
        return f.run(y, result)


def smoothing_units(f: Function, lo: Tensor, hi: Tensor, points: int = 4) -> list[Tensor]:
    """What one unit of smoothing is at each atom, (B, 1): the mean size of its arguments over a few random points."""
    if not isinstance(f, (EpigraphForm, MatrixFree)):
        return []
    generator = torch.Generator().manual_seed(0)
    low, high = lo.clamp(-10, 10), hi.clamp(-10, 10)
    total = [torch.zeros_like(lo[:, :1]) for _ in f.atoms]
    for _ in range(points):
        share = torch.rand(1, f.size, generator=generator, dtype=torch.float64).to(lo.device)
        for k, a in enumerate(f.arguments(torch.lerp(low, high, share.expand_as(low)))):
            total[k] += a.abs().mean(1, keepdim=True) / points
    return [torch.where(size > 0, size, 1.0) for size in total]

"""First derivatives of a smooth minimum of many variables, by conjugate gradients instead of matrices.

With f smooth, the system of `attach` has no kinks in it: H_FF v = (gradient of x)_F over the coordinates off the
bounds, and −v is what the slope of f is multiplied by. H is never made: a product with it is one pass of automatic
differentiation through the slope. Where an atom reads y element by element, as an entropy does, its share of H is
diagonal and preconditions the rest.

The derivatives are those at the point that was found, which nothing refines here: they are as precise as it is.

Source: Hestenes & Stiefel (1952); Domke (2012), who differentiates energies so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convexnet.form.atoms import Atom
from convexnet.form.program import apply_atom, atom_of
from convexnet.solve.derivatives.implicit import vector_jacobian
from convexnet.solve.derivatives.saved_minimum import Gradients, SavedMinimum, bound_gradient
from convexnet.solve.functions.matrix_free import MatrixFree, keep_unchanged

PRECISION = 1e-7
"""Of the linear system, as a share of its right side."""

ROUGH = 1e-2
"""The same that must be reached: beyond it the directions in which f does not curve count."""

PRODUCTS = 500
"""Products with H, at most."""


def pull_back_smooth(
    at: SavedMinimum, tensors: list[Tensor], to_x: Tensor | None, to_value: Tensor | None
) -> Gradients:
    """Gradients of the bounds and of the other tensors, for those of x and of the value, as `backward.pull_back`.

    Raises:
        RuntimeError: the system is not solved: f hardly curves along some direction at a minimiser.
    """
    opened = at.reading.opened
    assert opened is not None
    with torch.enable_grad():
        made, inputs, live = at.aliases(tensors)
        y = at.found.y.detach().clone().requires_grad_()
        inputs[at.variable] = y.view(len(y), *at.box.shape)
        out = opened.run(inputs, keep_unchanged, live).expand(len(y))
        (g,) = vector_jacobian([out], [y], [torch.ones_like(out)])
    slope = g.detach()
    low = (y <= at.lo) & ~(slope < 0)  # at the end of an entropy the slope is not a number
    high = (y >= at.hi) & ~low
    to_y = torch.zeros_like(slope)
    heads, weights = [out], [torch.zeros_like(out)]
    if to_value is not None:
        weights = [to_value.double()]
        to_y = to_y + to_value.double()[:, None] * torch.where(slope.isfinite(), slope, 0.0)
    if to_x is not None:
        arriving, free = to_x.reshape(slope.shape).double(), ~(low | high)

        def product(direction: Tensor) -> Tensor:
            return vector_jacobian([g], [y], [direction], again=False)[0]

        scale = separate_curvature(at, y.detach())
        along = solve_by_products(lambda v: torch.where(free, product(v), 0.0), torch.where(free, arriving, 0.0), scale)
        to_y = to_y + arriving - product(along)
        heads, weights = [*heads, g], [*weights, -along]
    ends = tuple(
        bound_gradient(torch.where(here, to_y, 0.0), bound, at.box.shape)
        for here, bound in ((low, at.box.lo), (high, at.box.hi))
    )
    others = vector_jacobian(heads, made, weights, again=False) if tensors else []
    return (ends[0], ends[1]), [gradient.to(tensor) for gradient, tensor in zip(others, tensors, strict=True)]


def separate_curvature(at: SavedMinimum, y: Tensor) -> Tensor:
    """A part of the diagonal of H (B, n): that of atoms which read y element by element; not below a share of it."""
    f = at.f
    assert isinstance(f, MatrixFree)
    generator = torch.Generator(device=y.device).manual_seed(0)
    probes = [torch.rand(y.shape, generator=generator, dtype=y.dtype, device=y.device) - 0.5 for _ in range(2)]
    here = f.arguments(y)
    there = [[a - b for a, b in zip(f.arguments(y + probe), here, strict=True)] for probe in probes]
    # The weights of the results in f: its derivatives for them, with all else as it is.
    results: list[Tensor] = []

    def noted(a: Tensor, atom: float | Tensor | Atom = 0.0) -> Tensor:
        results.append(apply_atom(a, atom_of(a, atom)))
        if not results[-1].requires_grad:
            results[-1].requires_grad_()
        return results[-1]

    with torch.enable_grad():
        out = f.run(y, noted)
        own = [k for k, result in enumerate(results) if result.requires_grad and here[k].shape == y.shape]
        total = torch.zeros_like(y)
        if not own or not out.requires_grad:
            return torch.ones_like(y)
        shares = torch.autograd.grad(out.sum(), [results[k] for k in own], allow_unused=True, materialize_grads=True)
    tiny = torch.full_like(y[:, :1], 1e-12)
    for k, share in zip(own, shares, strict=True):
        slopes = there[0][k] / probes[0]
        separate = (there[1][k] - slopes * probes[1]).abs() <= 1e-6 * (1 + slopes.abs())
        if not bool(separate.all()):
            continue
        atom = f.atoms[k]
        bent = atom.curved(here[k], atom.value(here[k]), atom.slopes(here[k]), tiny)
        total = total + share.flatten(1) * bent * slopes.square()
    total = torch.where(total.isfinite(), total, 0.0).clamp(min=0)
    return torch.where(total.amax(1, keepdim=True) > 0, total, 1.0)


def solve_by_products(product: Callable[[Tensor], Tensor], right: Tensor, scale: Tensor) -> Tensor:
    """v (B, n) with H v = right, for symmetric H >= 0 known by its products, sample by sample.

    Args:
        product: v -> H v.
        right: (B, n).
        scale: (B, n), a diagonal that preconditions; entries that are not positive count as the least that is.

    Raises:
        RuntimeError: a sample's system is not solved, even roughly.

    Example:
        >>> diagonal = torch.tensor([[1.0, 100.0]])
        >>> solve_by_products(lambda v: diagonal * v, torch.tensor([[1.0, 1.0]]), torch.ones(1, 2))
        tensor([[1.0000, 0.0100]])
    """
    least = torch.where(scale > 0, scale, torch.inf).amin(1, keepdim=True)
    inverse = 1 / torch.where(scale > 0, scale, torch.where(least.isfinite(), least, 1.0))
    v, r = torch.zeros_like(right), right
    z = inverse * r
    p, size = z, (r * z).sum(1)
    wanted = PRECISION**2 * size
    start = size
    for _ in range(PRODUCTS):
        open_ = size > wanted
        if not bool(open_.any()):
            break
        q = product(p)
        bend = (p * q).sum(1)
        step = torch.where(open_ & (bend > 0), size / bend, 0.0)[:, None]
        v, r = v + step * p, r - step * q
        z = inverse * r
        after = torch.where(open_ & (bend > 0), (r * z).sum(1), size)
        if bool((open_ & ~(bend > 0)).any()):  # nothing curves there
            break
        p = torch.where(open_[:, None], z + (after / torch.where(size > 0, size, 1.0))[:, None] * p, p)
        size = after
    left = (~(size <= ROUGH**2 * start)).nonzero()[:, 0]
    if len(left):
        raise RuntimeError(
            f"the derivative of the minimiser of sample {int(left[0])} is not found: f hardly curves there along some "
            "direction, so that the minimiser moves far, or is not unique. Add a quadratic term or an entropy "
            '(Cube(n, entropy=True)), or use derivative="unrolled"'
        )
    return v

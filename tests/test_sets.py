"""Sets beside boxes: projections, centres, hulls, copies, and what is proved to be empty."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import convexnet as cx
from convexnet.domains import Domain
from convexnet.domains.nearest import Polytope, proved_box
from tests.modules import Function


def drawn(generator: np.random.Generator, kind: str, n: int) -> Domain:
    """A set around a point, whose numbers have sizes from 1e-8 to 1e8."""
    size = 10.0 ** generator.integers(-8, 9)
    matrix = generator.standard_normal((int(generator.integers(1, 7)), n)) * size
    inner = generator.standard_normal(n) * generator.choice([0, 1, 1e-9, 1e4])
    if kind == "simplex":
        return cx.Simplex(n, size)
    if kind == "ball":
        return cx.Ball(n, size, generator.standard_normal(n) * generator.choice([0, 1, 1e6]))
    if kind == "equalities":
        matrix = matrix[: max(1, n // 2)]
        return cx.Polyhedron(A_eq=matrix, b_eq=matrix @ inner, within=cx.Box(inner - 1, inner + 1))
    if kind == "product":
        return cx.Product(cx.Simplex(n, 2.0), cx.Ball(2, 0.1), cx.Cube(1))
    room = np.abs(generator.standard_normal(len(matrix))) * generator.choice([0, 1, 1e-6])
    return cx.Polyhedron(matrix, matrix @ inner + room * np.abs(matrix).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["simplex", "ball", "polyhedron", "equalities", "product"])
def test_what_is_projected_lies_in_the_set_and_stays(kind: str, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(7)
    for _ in range(6):
        domain = drawn(generator, kind, int(generator.integers(1, 7)))
        points = generator.standard_normal((3, domain.shape.numel())) * 10.0 ** generator.integers(-3, 5)
        near = domain.project(torch.tensor(points).to(dtype))
        assert bool(domain.contains(near).all()), domain
        assert bool(domain.hull().contains(near).all()), domain
        assert bool(domain.contains(domain.centre[None]).all()), domain
        again, unit = domain.project(near).double(), torch.finfo(dtype).eps
        size = torch.maximum(near.double().abs().amax(), domain.centre.abs().amax())
        assert bool(((again - near.double()).abs() <= 16 * unit * size).all()), domain


def test_rows_that_conflict_are_proved_to_and_others_never_are() -> None:
    empty = (
        cx.Polyhedron([[0.1], [-0.3]], [0.1, -0.30001]),
        cx.Polyhedron([[0.0, 0.0]], [-1e-300]),
        cx.Polyhedron(A_eq=[[0.1, 0.7], [0.2, 1.4]], b_eq=[1.0, 2.1]),
        cx.Polyhedron([[1.0, 1.0]], [-1e-9], within=cx.Orthant(2)),
        cx.Polyhedron(A_eq=[[1.0, 1e-9]], b_eq=[1.5], within=cx.Box(-1, 1, shape=2)),
    )
    for domain in empty:
        assert domain.conflicts()[0], domain
    far = (
        cx.Polyhedron([[1.0, 0.0], [-1.0, 1e-10]], [0.0, -1.0]),  # y₁ <= −1e10
        cx.Polyhedron([[1.0, 0.0], [-1.0, 1e-14]], [0.0, -1.0]),
        cx.Polyhedron(A_eq=[[0.1, 0.7], [0.2, 1.4 + 1e-12]], b_eq=[1.0, 2.1]),
    )
    for domain in far:
        assert domain.conflicts() == [[]], domain
    nothing = cx.minimise(Function(lambda y: y.abs().sum(1)), far[1])
    assert nothing.status == ("stopped",)
    assert "it is not proved that there is none" in nothing.message
    assert float(nothing.lower_bound) == -torch.inf


def test_rows_that_others_imply_are_no_conflict() -> None:
    """Six rows through one point, of which three hold it, seen from far away: what rounding leaves is no conflict."""
    rows = np.random.default_rng(3).standard_normal((6, 3))
    for point in (np.zeros(3), np.array([1.0, 2.0, 3.0])):
        cone = cx.Polyhedron(rows, rows @ point)
        far = cone.project(1e4 * torch.tensor(np.random.default_rng(4).standard_normal((20, 3))))
        assert cone.conflicts() == [[]]
        assert bool(cone.contains(far).all())


def test_a_side_of_the_box_holds_only_where_those_that_it_needs_do() -> None:
    """Rounding leaves residuals in coordinates that have no end: then nothing is known of the others."""
    generator = np.random.default_rng(0)
    for _ in range(8):
        n = int(generator.integers(2, 5))
        rows = generator.standard_normal((int(generator.integers(1, 8)), n)) * 10.0 ** generator.integers(-8, 9)
        inside = generator.standard_normal(n)
        polytope = Polytope(np.zeros((0, n)), np.zeros(0), rows, rows @ inside + np.abs(rows).sum(1))
        lo, hi = proved_box(polytope, polytope.widest()[0])
        for way in generator.standard_normal((20, n)):
            steps = (polytope.b - rows @ inside) / np.where(rows @ way > 0, rows @ way, np.inf)
            steps = steps[rows @ way > 0]
            point = inside + min(1e9, float(steps.min(initial=np.inf))) * (1 - 1e-9) * way
            assert bool((point >= lo).all())
            assert bool((point <= hi).all())


SETS: dict[str, Callable[[], Domain]] = {
    "Box(0, [1 to 2], shape=2)": lambda: cx.Box(0, [1, 2]),
    "Box(-1, 1, shape=(2, 2), batch=3)": lambda: cx.Box(-1, 1, (2, 2), 3),
    "Orthant(2)": lambda: cx.Orthant(2),
    "Free(2)": lambda: cx.Free(2),
    "Cube(2, entropy=True)": lambda: cx.Cube(2, entropy=True),
    "Simplex(2, total=[1 to 2], batch=2)": lambda: cx.Simplex(2, [1, 2]),
    "Ball(2, 1, centre=0.5)": lambda: cx.Ball(2, 1, 0.5),
    "Polyhedron(1 inequalities and 0 equalities, within=Free(2))": lambda: cx.Polyhedron([[1.0, 2.0]], [1.0]),
    "Product(Cube(1), Simplex(2, total=1))": lambda: cx.Product(cx.Cube(1), cx.Simplex(2)),
}


@pytest.mark.parametrize("text", SETS)
def test_sets_say_what_they_are_and_can_be_copied_and_certified_on(text: str) -> None:
    domain = SETS[text]()
    assert repr(domain) == text
    for other in (copy.copy(domain), copy.deepcopy(domain), pickle.loads(pickle.dumps(domain))):
        assert repr(other) == text
        assert torch.equal(other.centre, domain.centre)
    model = Function(lambda y: y.square().flatten(1).sum(1))
    assert cx.certify(model, torch.zeros(1, *domain.shape), domain=domain).convex
    assert cx.falsify(model, torch.zeros(1, *domain.shape), domain=domain, budget=200) is None


def test_a_certificate_on_a_set_is_one_on_its_hull() -> None:
    cube = Function(lambda y: (y**3).sum(1))
    assert cx.certify(cube, torch.zeros(1, 2), domain=cx.Simplex(2)).convex
    assert not cx.certify(cube, torch.zeros(1, 2), domain=cx.Ball(2, 1.0)).convex
    assert cx.falsify(cube, torch.zeros(1, 2), domain=cx.Ball(2, 1.0), budget=2000) is not None


def test_a_set_is_no_window_on_the_tensors_it_was_made_of() -> None:
    one: Any = torch.ones(2, dtype=torch.float64)
    rows = torch.ones(1, 2, dtype=torch.float64)
    sets = (cx.Simplex(2, one), cx.Ball(2, one, one), cx.Polyhedron(rows, one[:1], within=cx.Box(0, one)))
    before: list[Tensor] = [domain.centre for domain in sets]
    one.fill_(5.0)
    rows.fill_(-9.0)
    points = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).double()
    for domain, centre in zip(sets, before, strict=True):
        assert torch.equal(domain.centre, centre)
        assert bool(domain.contains(points).all())

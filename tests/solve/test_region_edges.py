"""Minima over sets at their edges: sets without an end, single points, rows through 0, and what a solution keeps."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

import convexnet as cx
from convexnet.domains import Domain
from tests.modules import Function


def slope(y: Tensor) -> Tensor:
    return 2 * y.sum(1)


def bowl(y: Tensor) -> Tensor:
    return (y - 1).square().sum(1) / 2


def sizes(y: Tensor) -> Tensor:
    return y.abs().sum(1) + (y[:, 0] - y[:, 1]).relu()


ENDLESS: list[tuple[Domain, str]] = [
    (cx.Polyhedron([[1.0, 1.0]], [1.0]), "unbounded"),
    (cx.Polyhedron([[-1.0, -1.0]], [1.0]), "converged"),
    (cx.Polyhedron(A_eq=[[0.1, -0.1]], b_eq=[1.0]), "unbounded"),
    (cx.Product(cx.Simplex(2), cx.Free(1)), "unbounded"),
    (cx.Product(cx.Ball(2, 1.0), cx.Orthant(1)), "converged"),
]


@pytest.mark.parametrize(("domain", "status"), ENDLESS, ids=[repr(domain) for domain, _ in ENDLESS])
def test_what_falls_without_end_on_a_set_is_unbounded(domain: Domain, status: str) -> None:
    found = cx.minimise(Function(slope).double(), domain)
    assert found.status == (status,), found.message
    assert (float(found.lower_bound) == -torch.inf) == (status == "unbounded")
    assert ("unbounded below" in found.message) == (status == "unbounded")


def test_points_are_in_sets_whose_rows_go_through_zero() -> None:
    """There a row's size is that of the point, and rounding on the way from the inside is of another size."""
    for dtype in (torch.float32, torch.float64):
        like = torch.zeros(1, 1, dtype=dtype)
        f = Function(lambda x, y: y.abs().sum(1) + x.sum(1)).to(dtype)
        for matrix in ([[1.0, -1.0]], [[1e8, -3e8], [-1e-8, 1e-9]], [[1.0, -1.0], [-1.0, 1.0]]):
            domain = cx.Polyhedron(matrix, torch.zeros(len(matrix)), within=cx.Box(-1, 1, shape=2))
            found = cx.minimise(f, domain, given=like)
            assert bool(domain.contains(found.x).all()) or not bool(found.converged.any()), (matrix, found.x)
            assert float(found.lower_bound) <= 1e-12


def test_sets_of_one_point_are_solved_in_float32() -> None:
    third = 1 / 3
    f = Function(lambda x, y: bowl(y) + x.sum(1))
    given = torch.zeros(2, 1)
    rows = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    for domain in (
        cx.Polyhedron(A_eq=rows, b_eq=[third, 0.1], within=cx.Box(-1, 1, shape=2)),
        cx.Simplex(2, 0.0),
        cx.Ball(2, 0.0, third),
    ):
        found = cx.minimise(f, domain, given=given)
        assert found.status == ("converged",) * 2, (domain, found.message)
        assert bool(domain.contains(found.x).all())


def test_multipliers_of_boxes_and_of_maxima() -> None:
    found = cx.minimise(Function(lambda y: y.square().sum(1) / 2), cx.Box([0.5, -2.0], [1.0, -1.0]), tol=1e-10)
    held = {kind: part.round(decimals=6).tolist() for kind, part in found.multipliers.items()}
    assert held == {"lower": [[0.5, 0.0]], "upper": [[0.0, 1.0]]}
    highest = cx.maximise(Function(lambda y: -bowl(y)), cx.Box(-1, 0.25, shape=2), tol=1e-10)
    assert highest.multipliers["upper"].round(decimals=6).tolist() == [[0.75, 0.75]]
    kept = [pickle.loads(pickle.dumps(found.detach())), copy.deepcopy(found.detach())]
    for other in kept:
        assert torch.equal(other.multipliers["lower"], found.multipliers["lower"])
    simplex = cx.minimise(Function(bowl).double(), cx.Simplex(2)).detach()
    assert torch.equal(copy.deepcopy(simplex).multipliers["total"], simplex.multipliers["total"])


def test_networks_that_cannot_be_met_are_named() -> None:
    far, near = Function(lambda y: (y - 9).abs().sum(1)), Function(bowl)
    found = cx.minimise(
        Function(sizes), cx.Box(-1, 1, shape=2), subject_to=[cx.at_most(near, 2.0), cx.at_most(far, 1.0)]
    )
    assert found.status == ("infeasible",)
    assert found.message.endswith("no point of the domain meets subject_to[1]")


def test_an_empty_part_of_a_product_is_infeasible() -> None:
    empty = cx.Polyhedron([[1.0], [-1.0]], [[0.0, -1.0], [0.0, 1.0]])
    found = cx.minimise(Function(bowl), cx.Product(cx.Simplex(2), empty))
    assert found.status == ("infeasible", "converged")
    assert "row 0 of A of part 1 and row 1 of A of part 1" in found.message


def test_an_entropy_is_refused_by_name_where_programs_are_linear() -> None:
    pytest.importorskip("highspy")
    with pytest.raises(TypeError, match=r"Cube\(2, entropy=True\) adds an entropy"):
        cx.to_lp(Function(sizes), cx.Cube(2, entropy=True))
    with pytest.raises(TypeError, match="not Simplex: use its hull"):
        cx.to_lp(Function(sizes), cx.Simplex(2))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("domain", [cx.Simplex((), 2.0), cx.Ball((), 2.0, 3.0), cx.Box(1, 2, shape=())], ids=repr)
def test_samples_of_one_number(domain: Domain) -> None:
    found = cx.minimise(Function(lambda y: y.square()), domain)
    assert found.status == ("converged",)
    assert float(found.x) == pytest.approx(2.0 if isinstance(domain, cx.Simplex) else 1.0, abs=1e-5)
    points = torch.tensor([[5.0], [2.0]])[:, 0]
    assert bool(domain.contains(domain.project(points)).all())
    moved = cx.prox(Function(lambda y: y.square()), points, 0.5, domain)
    assert bool(domain.contains(moved.x).all())
    assert float(cx.conjugate(Function(lambda y: y.square()), torch.tensor([1.0]), domain).value) < 1

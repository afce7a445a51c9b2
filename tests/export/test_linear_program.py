"""The linear program that HiGHS is given: its names, its files, what may be added to it, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.export.arguments import read_form
from convexnet.form.sparse import SparseForm
from convexnet.form.tightness import check_tight
from tests.export.forms import evaluated
from tests.modules import Function
from tests.solve.networks import built

highspy = pytest.importorskip("highspy")
sparse = pytest.importorskip("scipy.sparse")

BOX = cx.Box(-1, 1, shape=(2,))


def optimum(lp: Any) -> float:
    lp.run()
    assert lp.modelStatusToString(lp.getModelStatus()) == "Optimal"
    return float(lp.getInfo().objective_function_value)


def test_names_follow_the_shapes() -> None:
    pictures, _ = built("pictures", 3)
    names = cx.to_lp(pictures, cx.Box(-1, 1, shape=(1, 4, 4))).getLp().col_names_
    assert names[:3] == ["y(0,0,0)", "y(0,0,1)", "y(0,0,2)"]
    assert names[16] == "z1(0,0,0)"
    assert len(set(names)) == len(names) == 16 + 3 * 16 + 3 * 4 + 2


@pytest.mark.parametrize("name", ["depth 2", "leaky", "pictures", "gated"])
@pytest.mark.parametrize("ending", ["lp", "mps"])
def test_files_read_back_equal(name: str, ending: str, tmp_path: Path, seed: int) -> None:
    model, shapes = built(name, seed)
    given = torch.randn(shapes[0], dtype=torch.float64) if len(shapes) > 1 else None
    lo = torch.full(shapes[-1], -1.0)
    lo.view(-1)[0] = -np.inf if name == "leaky" else 1 / 3
    hi = lo.clone().masked_fill(torch.ones_like(lo).bool(), 1 / 3)
    lp = cx.to_lp(model, cx.Box(lo, hi), given=given)
    file = str(tmp_path / f"net.{ending}")
    assert lp.writeModel(file) == highspy.HighsStatus.kOk
    again = highspy.Highs()
    again.setOptionValue("output_flag", False)
    assert again.readModel(file) == highspy.HighsStatus.kOk
    ours, theirs = lp.getLp(), again.getLp()
    place = {column: i for i, column in enumerate(theirs.col_names_)}
    assert {*ours.col_names_} == {*place}
    order = [place[column] for column in ours.col_names_]
    for field in ("col_cost_", "col_lower_", "col_upper_"):
        np.testing.assert_allclose(np.array(getattr(theirs, field))[order], getattr(ours, field), rtol=1e-12)
    assert theirs.offset_ == pytest.approx(ours.offset_, rel=1e-12)
    a, b = (
        sparse.csc_matrix((m.a_matrix_.value_, m.a_matrix_.index_, m.a_matrix_.start_), (m.num_row_, m.num_col_))
        for m in (ours, theirs)
    )
    np.testing.assert_allclose(b.toarray()[:, order], a.toarray(), rtol=1e-12)
    np.testing.assert_allclose(theirs.row_lower_, ours.row_lower_, rtol=1e-12)
    assert optimum(again) == pytest.approx(optimum(lp), rel=1e-8, abs=1e-8)


def test_rows_costs_and_integers_may_be_added() -> None:
    """Over whole numbers and below a row, against every one of them."""
    torch.manual_seed(4)
    net = cx.nn.FICNN(2, (8, 8), activation="relu").double()
    lp = cx.to_lp(net, cx.Box(-3, 3, shape=(2,)))
    assert lp.getModelStatus() == highspy.HighsModelStatus.kNotset, "nothing has been run"
    for column in range(2):
        lp.changeColIntegrality(column, highspy.HighsVarType.kInteger)
        lp.changeColCost(column, lp.getLp().col_cost_[column] - 1.5)
    lp.addRow(-highspy.kHighsInf, 2.0, 2, np.arange(2, dtype=np.int32), np.array([1.0, 2.0]))
    points = torch.cartesian_prod(*[torch.arange(-3.0, 4.0).double()] * 2)
    points = points[points @ torch.tensor([1.0, 2.0]).double() <= 2]
    with torch.no_grad():
        least = float((net(points)[:, 0] - 1.5 * points.sum(1)).min())
    assert optimum(lp) == pytest.approx(least, abs=1e-6)


def test_units_without_weights_are_constants(seed: int) -> None:
    """Rows of zeros, as clipping makes them, are folded into the constants."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[2].weight.abs_()
        net[2].weight[0, 1] = -2.0  # of a constant unit any weight will do
    assert cx.certify(net, torch.zeros(1, 2).double()).convex
    lp = cx.to_lp(net, BOX)
    points = torch.rand(20000, 2, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        least = float(net(points).min())
    assert least - 1e-2 <= optimum(lp) <= least + 1e-9
    assert lp.getLp().num_row_ == 3


class Fixed(nn.Module):
    """A forward that reads the size of its batch when it is traced."""

    def forward(self, y: Tensor) -> Tensor:
        return (y - 0.3).abs().reshape(len(y), 2).amax(1)


def test_a_forward_for_one_batch_size() -> None:
    assert optimum(cx.to_lp(Fixed(), BOX)) == pytest.approx(0.0, abs=1e-9)


# --- refusals --------------------------------------------------------------------------------------------------------

OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": lambda y: F.softplus(y).sum(1),
    "elu": lambda y: F.elu(y).sum(1),
    "exp": lambda y: y.exp().sum(1),
    "square": lambda y: y.square().sum(1),
    "mul": lambda y: (y * y).sum(1),
    "logsumexp": lambda y: y.logsumexp(1),
    "linalg_vector_norm": lambda y: torch.linalg.vector_norm(y, dim=1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_piecewise_linear_is_named(name: str) -> None:
    with pytest.raises(cx.NotCertified, match=rf"aten\.{name} .*\.py:\d+\n +why +it is not piecewise linear") as caught:
        cx.to_lp(Function(OTHERS[name]), BOX)
    assert len(caught.value.findings) == 1


def test_nonsense_is_named() -> None:
    net = cx.nn.FICNN(2, (4,), activation="relu")
    with pytest.raises(TypeError, match="the domain is a Box"):
        cx.to_lp(net, (-1, 1))  # pyright: ignore
    with pytest.raises(ValueError, match=r"returns \(3,\) numbers for each sample"):
        cx.to_lp(cx.nn.FICNN(2, (4,), out_features=3, activation="relu"), BOX)
    with pytest.raises(cx.NotTraceable, match=r"shape \(\.\.\., 2\), not \(2, 5\)"):
        cx.to_lp(net, cx.Box(-1, 1, shape=(5,)))
    with pytest.raises(cx.NotCertified, match=r"aten\.tanh"):
        cx.to_lp(Function(lambda y: y.tanh().sum(1)), BOX)
    with pytest.raises(TypeError, match=r"given\[0\] must be a tensor, an array .*, not Parameter"):
        cx.to_lp(cx.nn.PICNN(1, 2), BOX, given=pytest.importorskip("cvxpy").Parameter(1))
    with pytest.raises(TypeError, match="complex"):
        cx.to_lp(cx.nn.PICNN(1, 2), BOX, given=torch.zeros(1, dtype=torch.complex64))


# --- tightness -------------------------------------------------------------------------------------------------------


def form_of(function: Callable[[Tensor], Tensor]) -> SparseForm:
    return read_form(Function(function), (torch.zeros(1, 2, dtype=torch.float64),), ())[0]


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.relu().sum(1),
        lambda y: y.relu().square().sum(1),
        lambda y: (y.abs() + y.square()).abs().sum(1),
        lambda y: (-y.relu()).minimum(torch.ones(2)).neg().sum(1),
        lambda y: torch.cat([y.relu(), y], 1).amax(1) - y[:, 0],
    ],
)
def test_what_is_tight(function: Callable[[Tensor], Tensor], seed: int) -> None:
    """Raising any result above its atom never lowers the output, or what was proved is wrong."""
    generator = torch.Generator().manual_seed(seed)
    form = form_of(function)
    check_tight(form, "Function")
    for _ in range(50):
        y = torch.randn(2, generator=generator, dtype=torch.float64).numpy()
        exact = evaluated(form, y)
        raised = evaluated(form, y, raised=lambda z: z + np.abs(np.random.default_rng(0).standard_normal(z.shape)))
        assert (raised >= exact - 1e-12).all()


def test_a_form_that_is_not_tight_is_refused() -> None:
    """A form of the exporters' own making, with one sign turned."""
    form = form_of(lambda y: (y.relu() @ torch.tensor([[1.0], [2.0]]).double())[:, 0])
    check_tight(form, "Function")
    out = len(form.cuts)
    form.maps[out, 1] = form.maps[out, 1] * -1
    with pytest.raises(cx.NotCertified, match="only the exact one will do"):
        check_tight(form, "Function")


def test_an_absolute_value_of_what_may_be_negative_is_refused() -> None:
    """|relu(y) - 1| is not convex; should the certificate ever say so, its inequalities would not be tight."""
    form = form_of(lambda y: (y.relu() + 1).abs().sum(1))
    check_tight(form, "Function")
    form.constants[1][:] = -1.0
    with pytest.raises(cx.NotCertified, match="only the exact one will do"):
        check_tight(form, "Function")

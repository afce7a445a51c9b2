"""`widen_first="signs"`: the first activation sees both signs, the function stays, and the rest may be trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.nn import BothSigns
from tests.drawing import some

ROW, PICTURE = torch.randn(16, 4), torch.randn(16, 3, 8, 8)

MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "norms": (
        lambda: nn.Sequential(
            *(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.1)),
            *(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
        ),
        ROW,
    ),
    "a norm behind the activation": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)),
        ROW,
    ),
    "pictures": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ELU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 2 * 2, 3)),
        ),
        PICTURE,
    ),
    "flattened": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), PICTURE),
}


def converted(model: nn.Module, example: Tensor, **options: object) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return cx.convexify(model, example, method="clip", activation=None, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", some(MODELS, 2, "both signs"))
def test_the_function_stays_and_both_signs_are_seen(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    make, example = MODELS[name]
    model = make().eval()
    wide, plain = converted(model, example, widen_first="signs"), converted(model, example)
    assert cx.certify(wide, example).convex
    if "behind" not in name:  # a norm that sees twice as many channels has statistics of its own
        with torch.no_grad():
            torch.testing.assert_close(wide.eval()(example), plain.eval()(example), rtol=1e-4, atol=1e-5)
    doubled = [module for module in wide.modules() if isinstance(module, BothSigns)]
    assert len(doubled) == 1
    assert [change.after for change in cx.changes(wide) if "widen_first" in change.reason] == ["BothSigns(...)"]
    # The new half is constrained like the old one, and the layer before stays free.
    cone = cx.constrain(wide, example)
    assert "0.weight" not in cone.parameters
    optimiser = torch.optim.SGD(wide.parameters(), lr=0.5)
    cone.attach(optimiser)
    wide.train()
    for _ in range(3):
        optimiser.zero_grad()
        wide(example).square().mean().backward()
        optimiser.step()
    assert cx.certify(wide, example).convex


def test_what_it_does_to_an_argument() -> None:
    x = torch.tensor([[1.0, -2.0]])
    assert BothSigns(nn.ReLU())(x).tolist() == [[1.0, 0.0, 0.0, 2.0]]
    # An activation that works in place gives both signs of what it was given, too.
    for act in (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.CELU):
        kept = x.clone()
        assert torch.equal(BothSigns(act(inplace=True))(kept), BothSigns(act())(x))
        inside = nn.Sequential(nn.Linear(2, 2), BothSigns(act(inplace=True))).eval()
        unit = cx.certify(inside, x)
        assert unit.convex
        assert any("neg" in row for row in str(unit).splitlines() if row.endswith("affine"))
    # Behind a layer whose result is convex and not affine, the second half is concave: refused where it is weighed.
    model = nn.Sequential(nn.ReLU(), BothSigns(nn.LeakyReLU()), nn.Linear(4, 1))
    with torch.no_grad():
        model[2].weight.abs_()  # type: ignore[operator]
    assert not cx.certify(model, x).convex


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Twice(Functional):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.second(self.act(self.first(x)))))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Functional, "must be a module of its own that is used once, not aten.relu in the forward itself"),
        (Twice, "used once, not aten.relu in act"),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), "no activation module"),
        (lambda: nn.Sequential(nn.Linear(4, 3)), "the first layer is also the last"),
    ],
)
def test_what_cannot_be_doubled(make: Callable[[], nn.Module], told: str) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=told):
        converted(model, ROW, widen_first="signs")
    with pytest.raises(ValueError, match="or 'signs'"):
        converted(model, ROW, widen_first="sign")
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_it_is_saved_and_loaded(tmp_path: object) -> None:
    make, example = MODELS["norms"]
    wide = converted(make().eval(), example, widen_first="signs", init="identity", head="free")
    cx.save(wide, f"{tmp_path}/wide.safetensors")
    again = cx.load(f"{tmp_path}/wide.safetensors")
    with torch.no_grad():
        assert torch.equal(again.eval()(example), wide.eval()(example))
    assert cx.certify(again, example).convex

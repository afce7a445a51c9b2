"""What is kept between two minimisations of a module is never stale, and keeps nothing alive."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet.solve.compiled import reading_of
from convexnet.solve.fingerprint import fingerprint_of

BOX = cx.Box(-1, 1, shape=(3,))
GRID = torch.cartesian_prod(*3 * [torch.linspace(-1, 1, 21)])


@dataclass
class Settings:
    slope: float
    inner: Any = None


class Act:
    """A function with a setting."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, z: Tensor) -> Tensor:
        return F.leaky_relu(z, self.slope)


class Slotted:
    __slots__ = ("slope",)

    def __init__(self, slope: float) -> None:
        self.slope = slope


class Net(nn.Module):
    """Σ atom(a(y)) + 0.1 Σ |a(y)| + 0.1, with everything of `held` as attributes."""

    def __init__(self, atom: Callable[[Net, Tensor], Tensor], **held: Any) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.register_buffer("size", torch.ones(4))
        self.atom = atom
        self.__dict__.update(held)
        with torch.no_grad():
            self.a.weight.copy_(torch.eye(4, 3))
            self.a.bias.copy_(torch.tensor([1.5, -1.5, 2.0, 0.5]))

    def forward(self, y: Tensor) -> Tensor:
        z = self.a(y)
        return self.atom(self, z).sum(1) + 0.1 * z.abs().sum(1) + 0.1


def plain(net: Net, z: Tensor) -> Tensor:
    return F.relu(z) * net.size


def least(module: nn.Module) -> float:
    with torch.no_grad():
        return float(cx.minimise(module, BOX).value)


def triple(net: Net) -> None:
    with torch.no_grad():
        net.a.weight.mul_(3)


class Shared(Net):
    """Settings that all objects of a class share, in a base."""

    numbers: ClassVar[Any] = [0.0]
    table: ClassVar[Any] = {"slope": {"k": 0.0}}
    several: ClassVar[Any] = {0.0}
    settings = Settings(0.0)
    tensor = torch.zeros(1)
    layer = nn.LeakyReLU(0.0)
    array = np.zeros(1)

    @staticmethod
    def helper(z: Tensor) -> Tensor:
        return F.leaky_relu(z, 0.0)

    @property
    def slope(self) -> float:
        return self.numbers[0]


class Heir(Shared):
    """Inherits them."""


class Classy:
    """An object whose setting is that of its class."""

    slope = 0.0

    def __init__(self) -> None:
        self.name = "one"


SLOPES = [0.0]
SLOPE = 0.0
CONFIG = SimpleNamespace(slope=0.0)
TENSOR = torch.zeros(1)


def by_a_global(z: Tensor) -> Tensor:
    return F.leaky_relu(z, SLOPE)


def class_changes() -> dict[str, tuple[Callable[[], Net], Callable[[Any], object]]]:
    """What classes, their bases, the classes of objects and global variables hold."""
    module = globals()
    atoms: dict[str, tuple[Callable[[Net, Tensor], Tensor], Callable[[Any, float], object]]] = {
        "list": (lambda n, z: F.leaky_relu(z, n.numbers[0]), lambda _, s: Shared.numbers.__setitem__(0, s)),
        "property": (lambda n, z: F.leaky_relu(z, n.slope), lambda _, s: Shared.numbers.__setitem__(0, s)),
        "dictionary": (
            lambda n, z: F.leaky_relu(z, n.table["slope"]["k"]), lambda _, s: Shared.table["slope"].update(k=s),
        ),
        "set": (
            lambda n, z: F.leaky_relu(z, sum(n.several)), lambda _, s: (Shared.several.clear(), Shared.several.add(s)),
        ),
        "object": (lambda n, z: F.leaky_relu(z, n.settings.slope), lambda _, s: setattr(Shared.settings, "slope", s)),
        "tensor": (lambda n, z: z.relu() + n.tensor * z.abs(), lambda _, s: Shared.tensor.fill_(s)),
        "other tensor": (
            lambda n, z: z.relu() + n.tensor * z.abs(), lambda _, s: setattr(Shared, "tensor", torch.full((1,), s)),
        ),
        "module": (lambda n, z: n.layer(z), lambda _, s: setattr(Shared.layer, "negative_slope", s)),
        "array": (lambda n, z: F.leaky_relu(z, float(n.array[0])), lambda _, s: Shared.array.fill(s)),
        "method": (
            lambda n, z: n.helper(z),
            lambda _, s: setattr(Shared, "helper", staticmethod(lambda z: F.leaky_relu(z, s))),
        ),
        "an object's class": (lambda n, z: F.leaky_relu(z, n.s.slope), lambda _, s: setattr(Classy, "slope", s)),
        "a global list": (lambda n, z: F.leaky_relu(z, SLOPES[0]), lambda _, s: SLOPES.__setitem__(0, s)),
        "a global number": (lambda n, z: by_a_global(z), lambda _, s: module.update(SLOPE=s)),
        "a global object": (lambda n, z: F.leaky_relu(z, CONFIG.slope), lambda _, s: setattr(CONFIG, "slope", s)),
        "a global tensor": (lambda n, z: z.relu() + TENSOR * z.abs(), lambda _, s: TENSOR.fill_(s)),
        "a global class": (lambda n, z: F.leaky_relu(z, Classy.slope), lambda _, s: setattr(Classy, "slope", s)),
    }  # fmt: skip
    found: dict[str, tuple[Callable[[], Net], Callable[[Any], object]]] = {}
    for name, (atom, put) in atoms.items():

        def make(atom: Callable[[Net, Tensor], Tensor] = atom, put: Callable[[Any, float], object] = put) -> Net:
            put(None, 0.0)
            return Heir(atom, s=Classy())

        found[f"of a class, {name}"] = make, lambda net, put=put: put(net, 0.5)
    return found


CHANGES: dict[str, tuple[Callable[[], Net], Callable[[Any], object]]] = {
    "a weight in place": (lambda: Net(plain), triple),
    "a weight's data": (lambda: Net(plain), lambda net: net.a.weight.data.mul_(3)),
    "one number of it": (lambda: Net(plain), lambda net: net.a.bias.data[3].add_(1)),
    "a weight's data, replaced": (lambda: Net(plain), lambda net: setattr(net.a.weight, "data", 3 * net.a.weight.data)),
    "a state": (lambda: Net(plain), lambda net: net.load_state_dict({k: 2 * v for k, v in net.state_dict().items()})),
    "a state, assigned": (
        lambda: Net(plain),
        lambda net: net.load_state_dict({k: 2 * v for k, v in net.state_dict().items()}, assign=True),
    ),
    "a buffer": (lambda: Net(plain), lambda net: net.size.mul_(3)),
    "a layer": (lambda: Net(plain), lambda net: setattr(net, "a", nn.Linear(3, 4))),
    "a hook": (lambda: Net(plain), lambda net: net.a.register_forward_hook(lambda module, args, out: 3 * out)),
    "the forward": (lambda: Net(plain), lambda net: setattr(net, "forward", lambda y: 3 * y.abs().sum(1) + 7)),
    "a parametrisation": (
        lambda: Net(plain),
        lambda net: nn.utils.parametrize.register_parametrization(net.a, "bias", nn.Softplus()),
    ),
    "a number": (lambda: Net(lambda n, z: F.leaky_relu(z, n.slope), slope=0.0), lambda net: setattr(net, "slope", 0.5)),
    "an object's": (
        lambda: Net(lambda n, z: F.leaky_relu(z, n.s.slope), s=Settings(0.0)), lambda net: setattr(net.s, "slope", 0.5),
    ),
    "a deep object's": (
        lambda: Net(
            lambda n, z: F.leaky_relu(z, n.s["k"][0].inner.slope), s={"k": [Settings(0, SimpleNamespace(slope=0.0))]}
        ),
        lambda net: setattr(net.s["k"][0].inner, "slope", 0.5),
    ),
    "a slot": (
        lambda: Net(lambda n, z: F.leaky_relu(z, n.s.slope), s=Slotted(0.0)), lambda net: setattr(net.s, "slope", 0.5),
    ),
    "a list": (lambda: Net(lambda n, z: sum(n.s) * F.relu(z), s=[1.0]), lambda net: net.s.append(2.0)),
    "an array": (lambda: Net(lambda n, z: float(n.s[0]) * F.relu(z), s=np.ones(1)), lambda net: net.s.fill(3.0)),
    "a tensor of its own": (lambda: Net(lambda n, z: n.s * F.relu(z), s=torch.ones(1)), lambda net: net.s.fill_(3.0)),
    "another tensor": (
        lambda: Net(lambda n, z: n.s * F.relu(z), s=torch.ones(1)), lambda net: setattr(net, "s", torch.tensor([3.0])),
    ),
    "a function": (lambda: Net(lambda n, z: n.s(z), s=lambda z: F.relu(z)), lambda net: setattr(net, "s", torch.abs)),
    "a partial function": (
        lambda: Net(lambda n, z: n.s(z), s=functools.partial(F.leaky_relu, negative_slope=0.0)),
        lambda net: setattr(net, "s", functools.partial(F.leaky_relu, negative_slope=0.5)),
    ),
    "a closure's": (
        lambda: (lambda held: Net(lambda n, z: F.leaky_relu(z, held["k"]), held=held))({"k": 0.0}),
        lambda net: net.held.update(k=0.5),
    ),
    "a module in a list": (
        lambda: Net(lambda n, z: n.s[0](z), s=[nn.LeakyReLU(0.0)]),
        lambda net: setattr(net.s[0], "negative_slope", 0.5),
    ),
    **class_changes(),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_seen(name: str) -> None:
    make, change = CHANGES[name]
    torch.manual_seed(0)
    net = make()
    before = least(net)
    assert reading_of(net, [torch.zeros(1, 3)], 0) is reading_of(
        net, [torch.ones(2, 3)], 0
    )  # kept while nothing changes
    change(net)
    with torch.no_grad():
        after = cx.minimise(net, BOX)
        there, lowest = float(net(after.x)), float(net(GRID).min())  # by the forward, of which nothing is kept
    room = 1e-5 * (1 + abs(there))  # the forward is in float32
    assert after.converged.tolist() == [True]
    assert float(after.value) == pytest.approx(there, abs=room)
    assert there <= lowest + room
    assert float(after.lower_bound) <= lowest + room
    assert abs(float(after.value) - before) > 1e-3  # the change matters


def test_an_object_at_the_place_of_another(seed: int) -> None:
    """The `id` of what was thrown away may come again; it is another object all the same."""
    net = Net(lambda n, z: n.s(z), s=Act(0.0))
    least(net)
    place = id(net.s)
    for _ in range(1000):
        net.s = Act(0.5)
        if id(net.s) == place:
            break
    here = least(net)
    assert here == pytest.approx(least(Net(lambda n, z: n.s(z), s=Act(0.5))), rel=1e-6)
    assert abs(here - least(Net(lambda n, z: n.s(z), s=Act(0.0)))) > 1e-3


def test_a_module_that_becomes_another_type() -> None:
    net = Net(plain)
    with torch.no_grad():
        single = cx.minimise(net, BOX)
        net.double()
        double = cx.minimise(net, BOX)
        again = cx.minimise(net.float(), BOX)
    assert [part.x.dtype for part in (single, double, again)] == [torch.float32, torch.float64, torch.float32]
    assert float(single.value) == pytest.approx(float(double.value), rel=1e-5)


def test_a_change_that_breaks_convexity_is_noticed() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    cx.constrain(net, torch.zeros(2, 3), method="absolute")
    least(net)
    with torch.no_grad():
        net[0].bias.fill_(0.1)
        net[2].weight[0, 1] = -1.0
    with pytest.raises(cx.NotCertified):
        cx.minimise(net, BOX)


def test_modes_do_not_count_and_copies_are_read_for_themselves() -> None:
    net = Net(plain)
    structure = fingerprint_of(net)
    least(net)
    net.eval()
    assert fingerprint_of(net) == structure
    twin = copy.deepcopy(net)
    triple(twin)
    assert least(twin) != least(net)


def test_nothing_is_kept_alive() -> None:
    """Neither a module that is used no more, nor one whose forward is a function of its own, nor its settings."""
    net, other = Net(plain), Net(lambda n, z: n.s(z), s=Act(0.0))
    net.forward = functools.partial(Net.forward, net)
    setting = weakref.ref(other.s)
    alive = [weakref.ref(net), weakref.ref(other)]
    least(other)
    cx.minimise(net, BOX).value.sum().backward()
    other.s = Act(0.5)
    gc.collect()
    assert setting() is None
    del net, other
    gc.collect()
    assert [part() for part in alive] == [None, None]


def test_a_second_call_does_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even after a step of training, which changes values only."""
    from convexnet.solve import compiled

    net = Net(plain)
    least(net)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("traced again")

    monkeypatch.setattr(compiled, "trace", refuse)
    least(net)
    triple(net)
    least(net)
    with pytest.raises(AssertionError, match="traced again"):
        least(Net(plain))


def test_gated_results_of_one_number_are_read_again() -> None:
    """A maximum over a whole sample has results (B,), which others multiply: the maps of a second batch are scaled."""

    class Steep(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.abs()[:, 0] * (y - 0.3).amax(1) + x.abs()[:, 1] * (-y).amax(1).relu() + (y - 0.1).abs().sum(1)

    model, box = Steep(), cx.Box(-1, 1, shape=(3,))
    first = torch.tensor([[1.0, 2.0], [0.5, 1e-6]], dtype=torch.float64)
    second = torch.tensor([[3.0, 0.1]], dtype=torch.float64)
    cx.minimise(model, box, given=first)
    again = cx.minimise(model, box, given=second)
    fresh = cx.minimise(Steep(), box, given=second)
    assert bool(again.converged.all())
    torch.testing.assert_close(again.value, fresh.value, rtol=1e-6, atol=1e-6)
    assert bool((again.lower_bound <= fresh.value + 1e-12).all())

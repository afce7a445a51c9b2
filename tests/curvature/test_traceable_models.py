"""What cannot be traced is refused by name, with its place and a remedy; what is only unusual is certified."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from tests.modules import Function

ROWS = torch.ones(2, 3)


class Turned(Tensor):
    """A tensor class whose products are negative."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        out = -out if func in (Tensor.mul, torch.mul) else out
        return out.as_subclass(cls) if isinstance(out, Tensor) else out


class Named(Tensor):
    """A tensor class that changes no operator."""

    def __repr__(self) -> str:  # pyright: ignore
        return "named"


class Wrapped(Tensor):
    """A tensor class whose operators are its own."""

    @staticmethod
    def __new__(cls: Any, inner: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


class Holding(nn.Module):
    """relu(x) and a tensor, held as a parameter, a buffer, an attribute or in a list."""

    def __init__(self, tensor: Tensor, how: str) -> None:
        super().__init__()
        if how == "parameter":
            self.w = nn.Parameter(tensor, requires_grad=False)
        elif how == "buffer":
            self.register_buffer("w", tensor)
        else:
            self.w = tensor if how == "attribute" else {"a": [tensor]}
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        w: Any = self.w["a"][0] if self.how == "nested" else self.w
        return torch.relu(x) @ w


TENSORS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "coo": (Tensor.to_sparse, r"sparse \(torch.sparse_coo\): use .to_dense"),
    "csr": (Tensor.to_sparse_csr, r"sparse \(torch.sparse_csr\)"),
    "csc": (Tensor.to_sparse_csc, r"sparse \(torch.sparse_csc\)"),
    "bsr": (lambda t: t.to_sparse_bsr((1, 1)), r"sparse \(torch.sparse_bsr\)"),
    "bsc": (lambda t: t.to_sparse_bsc((1, 1)), r"sparse \(torch.sparse_bsc\)"),
    "mkldnn": (Tensor.to_mkldnn, "MKL-DNN.*to_dense"),
    "nested": (lambda t: torch.nested.nested_tensor(list(t)), "nested tensor: pad it"),
    "jagged": (lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged), "nested tensor: pad it"),
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantised: use .dequantize"),
    "meta": (lambda t: t.to("meta"), "meta device and has no values"),
    "wrapped": (Wrapped, "a Wrapped, whose operators are its own"),
}
CLASSES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "turned": (lambda t: t.as_subclass(Turned), "w.* is a Turned, a class .*__torch_function__.*as_subclass"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["parameter", "buffer", "attribute", "nested"])
@pytest.mark.parametrize("kind", [*TENSORS, *CLASSES])
def test_tensors_that_are_not_plain_are_refused_by_name(kind: str, how: str) -> None:
    make, words = {**TENSORS, **CLASSES}[kind]
    if (kind, how) == ("wrapped", "parameter"):
        pytest.skip("such a class cannot be a parameter")
    model = Holding(make(torch.eye(3)), how)
    with pytest.raises(cx.NotTraceable, match=words) as caught:
        cx.certify(model, ROWS)
    assert str(caught.value).startswith("w")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
def test_examples_without_dense_values_are_type_errors(kind: str) -> None:
    make, words = TENSORS[kind]
    words = "has no values: use torch.zeros" if kind == "meta" else words
    with pytest.raises(TypeError, match=r"example\[0\].*" + words):
        cx.certify(nn.Linear(3, 1), make(torch.ones(2, 3)))
    with pytest.raises(TypeError, match=r"given\[0\].*"):
        cx.minimise(Function(lambda c, y: y[:, 0]), cx.Box(-1, 1, shape=(3,)), given=make(torch.ones(2, 3)))


def test_an_example_of_another_class_stands_for_a_plain_one() -> None:
    assert cx.certify(nn.ReLU(), ROWS.as_subclass(Turned)).curvature == "convex"
    assert cx.certify(Holding(torch.eye(3).as_subclass(Named), "buffer"), ROWS).curvature == "convex"
    scaled = Function(lambda x: x * 2)
    assert cx.certify(scaled, nn.Parameter(ROWS)).curvature == "affine"

    def inside(row: Tensor) -> Tensor:
        with pytest.raises(TypeError, match="vmap"):
            cx.certify(nn.ReLU(), row[None])
        return row

    torch.vmap(inside)(ROWS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", [cx.certify, cx.constrain, cx.convexify, cx.falsify, cx.bake, cx.split])
def test_parts_that_are_no_python_are_refused_everywhere(entry: Callable[..., Any]) -> None:
    scripted = nn.Sequential(nn.Linear(3, 3), torch.jit.trace(nn.ReLU(), ROWS))
    with pytest.raises(cx.NotTraceable, match="1 is compiled by TorchScript"):
        entry(scripted, ROWS)
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    quantised = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear})
    with pytest.raises(cx.NotTraceable, match=r"0 is quantised .*before its quantisation"):
        entry(quantised, ROWS)
    sparse = Holding(torch.eye(3).to_sparse(), "buffer")
    with pytest.raises(cx.NotTraceable, match="w is sparse"):
        entry(sparse, ROWS)


# --- modes -----------------------------------------------------------------------------------------------------------


class Switching(nn.Module):
    sign = 1

    def eval(self) -> Switching:
        self.sign = -1
        super().eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * torch.relu(x)


def test_an_eval_of_the_models_own() -> None:
    with pytest.raises(cx.NotTraceable, match=r"Switching is in training mode and overrides eval\(\)"):
        cx.certify(Switching(), ROWS)
    assert cx.certify(Switching().eval(), ROWS).curvature == "concave"
    inside = nn.Sequential(nn.Linear(3, 3), Switching())
    with pytest.raises(cx.NotTraceable, match="1 is in training mode"):
        cx.certify(inside, ROWS)
    assert cx.certify(inside.eval(), ROWS).curvature == "convex"  # torch's eval() sets the flags of what is inside
    frozen = nn.Sequential(nn.Dropout(), nn.ReLU())
    frozen[0].train = lambda mode=True: frozen[0]
    with pytest.raises(cx.NotTraceable, match=r"0 is in training mode and overrides train\(\)"):
        cx.certify(frozen, ROWS)


def test_first_calls_from_many_threads() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 1))
    with torch.no_grad():
        net[4].weight.abs_()
    found: list[Any] = []

    def run(number: int) -> None:
        try:
            if number % 4 == 3:
                found.append(cx.falsify(net, ROWS, budget=50) is None)
            else:
                found.append(cx.certify(net, ROWS).convex)
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 16
    assert all(module.training for module in net.modules())
    assert torch.get_default_dtype() == torch.float32


# --- forwards --------------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """Two layers in a plain list or dictionary."""

    def __init__(self, held: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.own = nn.Linear(3, 3)
        self.held = held([nn.Linear(3, 3), nn.Linear(3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.own(x))
        for layer in self.held.values() if isinstance(self.held, dict) else self.held:
            x = layer(x)
        return x


@pytest.mark.parametrize("held", [list, tuple, lambda layers: dict(enumerate(layers))])
def test_layers_in_plain_containers(held: Callable[..., Any]) -> None:
    words = r"held\[0\].weight is used, and is not a parameter of Layers.*nn.ModuleList"
    for entry in (cx.certify, cx.constrain):
        with pytest.raises(cx.NotTraceable, match=words):
            entry(Layers(held), ROWS)
    assert not cx.certify(Layers(nn.ModuleList), ROWS).findings[0].reason.startswith("its rule")


def test_weights_in_a_closure_are_certified_as_they_are() -> None:
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.abs_()
    certificate = cx.certify(Function(lambda x: layer(torch.relu(x))), ROWS)
    assert (certificate.convex, certificate.scope) == (True, "at these weights")
    with pytest.raises(cx.NotCertified):
        cx.constrain(Function(lambda x: layer(torch.relu(x))), ROWS)


class Clipping(nn.Module):
    """As deepinv's ICNN: weights are clipped in the forward."""

    def __init__(self, how: Callable[[nn.Linear], None]) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        self.how(self.layer)
        return self.layer(torch.relu(x))


def assigned(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data.clamp(min=0)


def in_place(layer: nn.Linear) -> None:
    layer.weight.data.clamp_(min=0)


@pytest.mark.parametrize("how", [assigned, in_place])
def test_weights_that_are_clipped_in_the_forward(how: Callable[[nn.Linear], None]) -> None:
    model = Clipping(how)
    before = model.layer.weight.detach().clone()
    with pytest.raises(
        cx.NotTraceable, match=r"(?s)test_traceable_models.py:\d+ in .*layer.weight through .data.*attach"
    ):
        cx.certify(model, ROWS)
    assert torch.equal(model.layer.weight.detach(), before)


def logged(x: Tensor) -> Tensor:
    logging.getLogger("tests").info("mean %s", x.mean().item())
    return torch.relu(x)


def printed(x: Tensor) -> Tensor:
    print(f"mean {x.mean():.3f}")
    return torch.relu(x)


def differentiated(x: Tensor) -> Tensor:
    return torch.autograd.grad(torch.relu(x.requires_grad_()).square().sum(), x)[0]


class Record:
    def __init__(self, value: Tensor) -> None:
        self.value = value


FORWARDS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a number in a text": (printed, r"(?s)in printed: print.*Python numbers"),
    "float": (lambda x: x * float(x.sum()), "Python numbers"),
    "a branch": (lambda x: x if x.sum() > 0 else -x, "branches on the values"),
    "an assertion": (lambda x: torch.relu(x) if not torch.isnan(x).any() else x, "branches on the values"),
    "numpy": (
        lambda x: torch.from_numpy(np.maximum(x.detach().numpy(), 0)),
        "(?s)test_traceable_models.*calls NumPy",
    ),
    "an array": (lambda x: torch.as_tensor(np.asarray(x.detach()) * 2), "calls NumPy"),
    "a generator": (lambda x: x + torch.rand(3, generator=torch.Generator()), "random numbers from a generator"),
    "a gradient": (differentiated, "(?s)in differentiated.*derivatives of its own"),
    "torch.func": (lambda x: torch.func.grad(lambda y: y.square().sum())(x), "derivatives of its own"),
    "an object": (lambda x: Record(torch.relu(x)), "an object of class Record"),
    "an array returned": (lambda x: np.zeros(3), "an object of class ndarray"),
    "no such method": (lambda x: x.nothing(), "(?s)simply called.*'Tensor' object has no attribute 'nothing'"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_that_cannot_be_recorded_says_where_and_why(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    forward, words = FORWARDS[name]
    with pytest.raises(cx.NotTraceable, match=words):
        cx.certify(Function(forward), ROWS)
    assert "mean" not in capsys.readouterr().out


def test_forwards_that_are_only_unusual() -> None:
    assert cx.certify(Function(logged), ROWS).convex
    several = cx.certify(Function(lambda x: (torch.relu(x), None, "a", 3, {"b": x})), ROWS)
    assert dict(several.outputs) == {"output[0]": "convex", "output[4]['b']": "affine"}
    for nothing in (lambda x: None, lambda x: "a", lambda x: 3.0):
        assert cx.certify(Function(nothing), ROWS).findings[0].reason == "the model has no floating-point output"
    half = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).half()
    assert cx.certify(half, ROWS.half()).convex


@pytest.mark.parametrize(("draw", "name"), [(random.random, "random"), (np.random.rand, "numpy.random")])
def test_random_numbers_of_python_are_findings(draw: Callable[[], float], name: str) -> None:
    certificate = cx.certify(Function(lambda x: torch.relu(x) * draw()), ROWS)
    assert [finding.operator for finding in certificate.findings] == [name]
    drawn = random.getstate()
    cx.certify(Function(lambda x: F.relu(x)), ROWS)
    assert random.getstate() == drawn


def test_a_refused_trace_leaves_no_hook_behind() -> None:
    class Assigning(nn.Module):
        b: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("b", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.b = self.b + 1
            return x if x.sum() > 0 else -x

    model = Assigning()
    with pytest.raises(cx.NotTraceable):
        cx.certify(model, ROWS)
    assert model(ROWS).tolist() == ROWS.tolist()
    assert model.b.tolist() == [1.0, 1.0, 1.0]


HELD = torch.eye(3).to_sparse()


def test_a_global_counts_only_where_the_forward_reads_it() -> None:
    """An attribute may have the name of one."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("HELD", torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x.relu() * self.HELD

    assert cx.certify(Scaled(), torch.zeros(1, 3)).convex

"""`save` and `load`: the same model again, whatever it is made of, and nothing else, whatever the file says."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import json
import math
import operator
import os
import pickle
import random
import sys
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.hooks import RemovableHandle

import convexnet as cx
from convexnet.storage import file, load, save
from convexnet.storage.modules import Draft, describe_model, rebuild_model
from convexnet.storage.tensors import pack, unpack
from convexnet.storage.trust import import_trusted, path_of
from convexnet.storage.values import TAGS, FileContent, decode, encode
from tests.modules import Function

HERE = __name__


# --- an oracle: are two things alike, found without the code under test ----------------------------------------------


def alike(a: Any, b: Any, met: dict[int, int] | None = None) -> bool:
    """Whether two values have the same types and contents all the way down, and share what they share."""
    met = {} if met is None else met
    if type(a).__name__ != type(b).__name__:
        return False
    if isinstance(a, (Tensor, nn.Module)):
        if id(a) in met:
            return met[id(a)] == id(b)
        if id(b) in met.values():
            return False
        met[id(a)] = id(b)
    if isinstance(a, Tensor):
        same = (a.dtype, a.shape, strides(a), a.requires_grad) == (b.dtype, b.shape, strides(b), b.requires_grad)
        return same and bits(a) == bits(b) and alike(vars(a), vars(b), met)
    if isinstance(a, nn.Module):
        return alike(state_of(a), state_of(b), met)
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(alike(x, y, met) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return alike(list(a), list(b), met) and all(alike(a[k], b[j], met) for k, j in zip(a, b, strict=True))
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(alike(x, y) for y in b) for x in a)
    if isinstance(a, functools.partial):
        return alike([a.func, a.args, a.keywords], [b.func, b.args, b.keywords], met)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return all(alike(getattr(a, f.name), getattr(b, f.name), met) for f in dataclasses.fields(a))
    if hasattr(a, "__self__") and isinstance(a.__self__, nn.Module):
        return a.__func__ is b.__func__ and alike(a.__self__, b.__self__, met)
    if type(a).__module__.startswith("torchvision") and not isinstance(a, type):
        return alike(vars(a), vars(b), met)
    return a is b or bool(a == b)


def state_of(module: nn.Module) -> dict[str, Any]:
    """All a module holds, in an order of its own, hooks without their numbers."""
    lists = {"_flat_weights", "_flat_weight_refs"} if parametrize.is_parametrized(module) else {"_flat_weight_refs"}
    state = {key: value for key, value in vars(module).items() if key not in lists}
    for key, value in state.items():
        if key.endswith(("_hooks", "_with_kwargs", "_always_called")):
            state[key] = [getattr(hook, "hook", hook) for hook in value.values()]
    for key in ("_forward_hooks", "_load_state_dict_pre_hooks"):
        state[key] = [hook.__qualname__ for hook in state[key]]  # weight_norm's is made anew
    return dict(sorted(state.items()))


def strides(tensor: Tensor) -> list[int]:
    """Those that matter: an extent of one is never stepped over."""
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def bits(tensor: Tensor) -> bytes:
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().flatten())
    return flat.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def outputs(model: nn.Module, inputs: tuple[Tensor, ...], train: bool) -> list[Tensor]:
    """What a model returns and the gradients of all that trains, with one state of the generators."""
    model.train(train)
    model.zero_grad()
    torch.manual_seed(7)
    result = model(*inputs)
    leaves = [result] if isinstance(result, Tensor) else [leaf for leaf in result if isinstance(leaf, Tensor)]
    total = sum(leaf.float().square().sum() for leaf in leaves)
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()
    return leaves + [p.grad for p in model.parameters() if p.grad is not None]


def check_same(model: nn.Module, again: nn.Module, *inputs: Tensor) -> None:
    """A loaded model is the saved one: in what it holds, in what it computes, and in how it goes on."""
    assert again is not model
    assert type(again).__name__ == type(model).__name__
    assert alike(model, again)
    assert list(again.state_dict()) == list(model.state_dict())
    assert not {id(p) for p in model.parameters()} & {id(p) for p in again.parameters()}
    if inputs:
        for train in (False, True):
            for left, right in zip(outputs(model, inputs, train), outputs(again, inputs, train), strict=True):
                assert torch.equal(left, right), f"outputs or gradients differ, train={train}"
        for (name, left), right in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
            assert bits(left) == bits(right), name


def test_the_oracle_sees_differences() -> None:
    """The negative control of all that follows."""
    pairs: list[tuple[Any, Any]] = [
        *[(1, True), (1, 1.0), (0.0, -0.0), ((1,), [1]), ({1: 2, 3: 4}, {3: 4, 1: 2}), ({1}, {True}), ("a", b"a")],
        *[(torch.zeros(2), torch.zeros(2).double()), (torch.zeros(2, 2), torch.zeros(2, 2).t().requires_grad_())],
        *[(torch.zeros(2, 3), torch.zeros(3, 2).t()), (np.float32(1), np.float64(1)), (torch.relu, F.relu)],
        *[(nn.ReLU(), nn.ReLU().eval()), (nn.ReLU(), nn.ELU()), (nn.BatchNorm1d(2), nn.BatchNorm1d(2, eps=1e-6))],
        (functools.partial(F.elu, alpha=1.0), functools.partial(F.elu, alpha=2.0)),
    ]
    for a, b in pairs:
        assert not alike(a, b), (a, b)
        assert alike(a, copy.deepcopy(a))
    layer = nn.Linear(2, 2)
    shared, twice = nn.Sequential(layer, layer), nn.Sequential(layer, copy.deepcopy(layer))
    assert not alike(shared, twice)
    assert not alike(twice, shared)
    hooked = nn.ReLU()
    hooked.register_forward_hook(double)
    assert not alike(hooked, nn.ReLU())
    with pytest.raises(AssertionError):
        check_same(nn.Dropout(0.5), nn.Dropout(0.25), torch.ones(3, 4))


# --- models ----------------------------------------------------------------------------------------------------------


def double(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


def scaled(module: nn.Module, inputs: Any, keywords: Any, output: Tensor) -> Tensor:
    return output * 3


def shifted(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0] + 1


def noted(module: nn.Module, state: Any, prefix: str, local: Any) -> None:
    state[f"{prefix}noted"] = torch.ones(1)


def before_loading(module: nn.Module, state: Any, *_: Any) -> None:
    state.pop("noted", None)


class Squared(nn.Module):
    """A parametrisation without an inverse."""

    def forward(self, v: Tensor) -> Tensor:
        return v * v


class TwoParts(nn.Module):
    """A parametrisation that keeps two tensors."""

    def forward(self, size: Tensor, rest: Tensor) -> Tensor:
        return size * rest

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return w.abs().amax().reshape(1), w / w.abs().amax()


class Colour(enum.Enum):
    RED = "red"
    GREEN = 3


class Bits(enum.Flag):
    ONE = 1
    TWO = 2


Pair = namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass(frozen=True)
class Record:
    name: str
    bound: Tensor | None
    inner: Record | None = None

    @functools.cached_property
    def long_name(self) -> str:
        return self.name * 2


class Everything(nn.Module):
    """Each kind of thing a module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.first, self.again = nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.again.weight = self.table.weight  # tied
        self.alias = self.first
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("passing", torch.arange(4.0) + 1, persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("none", None)
        self.marked = nn.Parameter(torch.ones(4))
        self.marked.no_weight_decay = True  # type: ignore[attr-defined]
        self.newer = nn.Buffer(torch.zeros(4))
        self.first.bias.requires_grad_(False)
        self.plain = torch.tensor([1.0, 2.0])
        self.leaf = torch.zeros(2, requires_grad=True)
        self.act, self.pool, self.jit = F.softplus, F.max_pool1d, torch.tanh
        self.norm = functools.partial(nn.LayerNorm, eps=1e-3)
        self.config = {"sizes": (1, 2), 3: [None, math.inf], Colour.RED: {"deep": torch.float16}}
        self.same_weight = [self.first.weight, {"again": self.first}]
        self.__dict__["outside"] = nn.Linear(4, 4)  # a module that is not a child
        self.outside.__dict__["parent"] = self
        self.method = self.first.forward
        self.stacked = nn.ModuleDict({"a": nn.ParameterList([torch.ones(2), torch.zeros(1)]), "b": nn.Identity()})
        self.__dict__["_convexnet_changes"] = (Record("a", torch.ones(2), Record("b", None)),)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.method(x) + self.outside(x)) * self.kept + self.passing * self.marked + self.newer
        return self.again(self.norm(4)(self.jit(self.alias(y)) + self.table.weight.sum(0)))


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    net[0].register_forward_hook(double)
    net[0].register_forward_hook(scaled, with_kwargs=True, always_call=True)
    net[1].register_forward_pre_hook(shifted)
    net.register_state_dict_post_hook(noted)
    net.register_load_state_dict_pre_hook(before_loading)
    return net


def views() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    flat = torch.randn(40)
    net[0].weight = nn.Parameter(flat[:16].view(4, 4))
    net[1].weight = nn.Parameter(flat[8:24].view(4, 4).t())  # overlaps, and is transposed
    net[0].bias = nn.Parameter(torch.randn(4, 2)[:, 1])  # with gaps
    net.register_buffer("wide", torch.randn(1).expand(4))
    net.register_buffer("halves", flat.view(torch.float16)[4:8])  # the same memory, read otherwise
    return net


def unlike() -> nn.Module:
    """Types, shapes and strides that files tend to lose."""
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    kinds = [torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
    for i, kind in enumerate([*kinds, torch.complex128, torch.uint16, torch.float8_e4m3fn]):
        net.register_buffer(f"buffer{i}", torch.tensor([[0.0, 1.0, 3.0]]).to(kind))
    net.register_buffer("empty", torch.zeros(0, 3))
    net.register_buffer("scalar", torch.tensor(-0.0))
    net.register_buffer("special", torch.tensor([math.nan, math.inf, -0.0]))
    net.register_buffer("__metadata__", torch.ones(1))
    return net


def parametrised() -> nn.Module:
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    parametrize.register_parametrization(net[0], "weight", Squared())
    parametrize.register_parametrization(net[0], "weight", nn.Softplus())
    parametrize.register_parametrization(net[0], "bias", Squared())
    parametrize.register_parametrization(net[1], "weight", TwoParts(), unsafe=True)
    parametrizations.orthogonal(net[2])
    parametrizations.weight_norm(net[3])
    parametrizations.spectral_norm(net[4])
    return net


def computed_recurrent() -> nn.Module:
    net = nn.GRU(4, 4)
    parametrize.register_parametrization(net, "weight_hh_l0", Squared())
    net(STEPS)  # its list of weights now holds a computed one
    return net


def half() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ELU()).bfloat16()


def constrained() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ELU(), nn.Linear(6, 3))
    cx.constrain(net, torch.zeros(1, 4), method="exponentiate", epsilon=3.0)
    return net


ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
STEPS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2))
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "sequential": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3), nn.PReLU(), nn.Flatten()), (ROWS,)),
    "norms": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)), (ROWS,)),
    "everything": (Everything, (ROWS,)),
    "hooks": (hooked, (torch.randn(2, 3, generator=torch.Generator().manual_seed(3)),)),
    "views": (views, (ROWS,)),
    "types": (unlike, (torch.ones(1, 3, 5, 5),)),
    "parametrised": (parametrised, (ROWS,)),
    "bfloat16": (half, (ROWS.bfloat16(),)),
    "constrained": (constrained, (ROWS,)),
    "lstm": (lambda: nn.LSTM(4, 3, 2, dropout=0.2, bidirectional=True), (STEPS,)),
    "gru": (lambda: nn.GRU(4, 3, batch_first=True, bias=False), (STEPS,)),
    "computed gru": (computed_recurrent, (STEPS,)),
    "attention": (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=4, vdim=4), (STEPS, STEPS, STEPS)),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False),
        (STEPS,),
    ),
}


def there_and_back(model: nn.Module, folder: Path, allow: Any = (HERE,)) -> nn.Module:
    save(model, folder / "model.safetensors")
    return load(folder / "model.safetensors", allow=allow)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_model(name: str, tmp_path: Path) -> None:
    build, inputs = MODELS[name]
    model = build()
    for train in (True, False):
        model.train(train)
        check_same(model, there_and_back(model, tmp_path), *inputs)
    # saving the loaded one says the same, so that nothing is lost or added on the way
    once = (tmp_path / "model.safetensors").read_bytes()
    there_and_back(load(tmp_path / "model.safetensors", allow=(HERE,)), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == once


SMALL = {"img_size": 32}
LIBRARY = [
    ("torchvision", "resnet18", {}),
    ("torchvision", "densenet121", {}),
    ("torchvision", "mobilenet_v2", {}),
    ("timm", "mixer_s32_224", SMALL),
    ("timm", "convnext_atto", {}),
    *(pytest.param("torchvision", name, {}, marks=pytest.mark.slow) for name in ("convnext_tiny", "efficientnet_b0")),
    *(pytest.param("timm", name, {}, marks=pytest.mark.slow) for name in ("repvgg_a0", "convnextv2_nano")),
    pytest.param("timm", "resmlp_12_224", SMALL, marks=pytest.mark.slow),
    pytest.param("torchvision", "ssdlite320_mobilenet_v3_large", {"weights_backbone": None}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("package", "name", "keywords"), LIBRARY)
def test_models_of_the_libraries(package: str, name: str, keywords: dict[str, Any], tmp_path: Path) -> None:
    if package == "timm":
        model = pytest.importorskip("timm").create_model(name, pretrained=False, num_classes=5, **keywords)
    else:
        model = pytest.importorskip("torchvision").models.get_model(name, weights=None, num_classes=5, **keywords)
    pictures = () if "ssd" in name else (torch.randn(2, 3, 32, 32),)
    check_same(model, there_and_back(model, tmp_path, allow=()), *pictures)


def test_what_is_shared_stays_shared(tmp_path: Path) -> None:
    again: Any = there_and_back(views(), tmp_path)
    with torch.no_grad():
        again[0].weight.zero_()
    assert bool((again[1].weight.t().flatten()[:8] == 0).all())
    assert not bool((again[1].weight.t().flatten()[8:] == 0).any())
    alone: Any = there_and_back(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), tmp_path)
    with torch.no_grad():
        alone[0].weight.zero_()
    assert not bool((alone[1].weight == 0).any())


KINDS = [torch.uint8, torch.float16, torch.float32, torch.complex64, torch.bool]


@st.composite
def block(draw: st.DrawFn) -> list[Tensor]:
    """Views of one block of memory: of several types, that overlap in any way, with gaps and with extent zero."""
    memory = torch.arange(96, dtype=torch.uint8)
    memory = memory.remainder(2) if draw(st.booleans()) else memory
    views = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(KINDS if int(memory.max()) < 2 else KINDS[:-1]))
        typed = memory.view(kind)
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        stride = draw(st.lists(st.integers(0, 4), min_size=len(shape), max_size=len(shape)))
        reach = sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if 0 not in shape else 0
        if reach < typed.numel():
            views.append(typed.as_strided(shape, stride, draw(st.integers(0, typed.numel() - 1 - reach))))
    return views


BYTES = torch.arange(16, dtype=torch.uint8)


@given(block())
@example([BYTES.view(torch.float16)[1:3], BYTES.view(torch.float32)[1:2]])  # starts between two float32
def test_views_of_one_block_come_back(views: list[Tensor]) -> None:
    """They have the same bits, and writing to one changes the others as it did before."""
    stored, places = pack(views, ["a"] * len(views))
    places = [{**place, "requires_grad": False} for place in json.loads(json.dumps(places))]
    again = unpack(places, list(stored), stored.__getitem__, torch.device("cpu"))
    for i in range(-1, len(views)):
        if i >= 0:
            for tensor in (views[i], again[i]):
                torch.as_strided(tensor, (tensor.numel() and 1,), (1,)).fill_(1)
        for before, after in zip(views, again, strict=True):
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
            assert bits(before) == bits(after)


def test_slices_of_one_vector_are_saved_apart(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    vector = torch.randn(sum(p.numel() for p in net.parameters()))
    nn.utils.vector_to_parameters(vector, net.parameters())
    assert len({p.untyped_storage().data_ptr() for p in net.parameters()}) == 1
    check_same(net, there_and_back(net, tmp_path, allow=()), torch.ones(1, 3))
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as opened:
        assert set(opened.keys()) == set(net.state_dict())


def test_a_small_view_does_not_bring_its_storage(tmp_path: Path) -> None:
    net = nn.Linear(4, 1)
    net.weight = nn.Parameter(torch.randn(100_000, 4)[3:4])
    net.register_buffer("column", torch.randn(4, 100_000)[:, 5])
    again = there_and_back(net, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 10_000
    assert torch.equal(again.get_buffer("column"), net.get_buffer("column"))


def test_a_constraint_goes_on(tmp_path: Path) -> None:
    net = constrained()
    again = there_and_back(net, tmp_path, allow=())
    weights = {name: value if "running" in name else -value.abs() for name, value in net.state_dict().items()}
    for model in (net, again):
        model.load_state_dict({name: value.clone() for name, value in weights.items()})
    assert alike(net, again)
    assert bool((again.get_parameter("3.weight") > 0).all())
    assert cx.constrain(again, ROWS).parameters == cx.constrain(net, ROWS).parameters
    assert cx.certify(again.eval(), ROWS).convex
    plain = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ELU(), nn.Linear(6, 3))
    forgotten = there_and_back(plain, tmp_path, allow=())
    forgotten.load_state_dict(weights)
    assert bool((forgotten.get_parameter("3.weight") < 0).all())


def test_converted_models_come_back(tmp_path: Path) -> None:
    ordinary = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3))
    net = cx.convexify(ordinary, ROWS, method="softplus", head="free")
    again = there_and_back(net, tmp_path, allow=())
    assert cx.changes(again) == cx.changes(net) != ()
    check_same(net, again, ROWS)
    assert cx.certify(again.eval(), ROWS).convex
    assert not cx.certify(there_and_back(ordinary, tmp_path, allow=()).eval(), ROWS).convex


def test_hooks_keep_their_numbers_to_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook registered after loading must not push out one that was loaded."""
    save(hooked(), tmp_path / "model.safetensors")
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # as in a new process
    again = load(tmp_path / "model.safetensors", allow=(HERE,))
    layer: Any = again.get_submodule("0")
    before = list(layer._forward_hooks.values())
    handles = [layer.register_forward_hook(double) for _ in range(30)]
    assert list(layer._forward_hooks.values())[: len(before)] == before
    for handle in handles:
        handle.remove()
    assert list(layer._forward_hooks.values()) == before == [double, scaled]


def test_parametrised_weights_keep_training(tmp_path: Path) -> None:
    again: Any = there_and_back(parametrised(), tmp_path)
    assert type(again[0]).__name__ == "ParametrizedLinear"
    again[1].weight = torch.full((4, 4), 0.5)  # through the right inverse
    assert torch.allclose(again[1].weight, torch.full((4, 4), 0.5))
    parametrize.remove_parametrizations(again[0], "weight")
    assert type(again[0].weight) is nn.Parameter
    # checkpoints of the older weight_norm have other names, and its hook still translates them
    old = again[3].state_dict()
    size, direction = (old.pop(f"parametrizations.weight.original{i}") for i in range(2))
    old.update(weight_g=2 * size, weight_v=direction)
    expected = 2 * again[3].weight.detach()
    again[3].load_state_dict(old)
    assert torch.allclose(again[3].weight, expected)


def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, when it imports its compiler
        compiled: Any = torch.compile(net)
    for wrapped in (compiled, nn.DataParallel(net), nn.DataParallel(compiled), nn.Sequential(compiled)):
        again = there_and_back(wrapped, tmp_path)
        check_same(net, again if len(again) == 2 else again.get_submodule("0"), ROWS)
    net.compile()
    again = there_and_back(net, tmp_path)
    assert again._compiled_call_impl is None
    assert net._compiled_call_impl is not None


def test_gradients_and_the_model_itself_are_left_alone(tmp_path: Path) -> None:
    net = Everything()
    net(ROWS).sum().backward()
    tensors = [(p, p.grad, bits(p), p._version) for p in net.parameters()]
    recipe, _ = describe_model(net)
    again = there_and_back(net, tmp_path)
    assert describe_model(net)[0] == recipe
    for before, p in zip(tensors, net.parameters(), strict=True):
        assert before[0] is p
        assert before[1] is p.grad
        assert before[2:] == (bits(p), p._version)
    assert all(p.grad is None for p in again.parameters())
    assert any(p.grad is not None for p in net.parameters())


def test_other_tools_can_read_the_tensors(tmp_path: Path) -> None:
    net = constrained()
    save(net, tmp_path / "model.safetensors")
    with safe_open(str(tmp_path / "model.safetensors"), framework="np") as opened:
        assert json.loads(opened.metadata()["convexnet"])["format"] == "convexnet.model/1"
        for name, value in net.state_dict().items():
            assert np.array_equal(opened.get_tensor(name), value.numpy()), name


def test_device(tmp_path: Path) -> None:
    save(nn.Linear(2, 2), tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors", device="meta").get_parameter("weight").is_meta
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"'cuda' is not here"):
            load(tmp_path / "model.safetensors", device="cuda")


@pytest.mark.gpu
def test_on_a_device(tmp_path: Path) -> None:
    net = nn.ModuleList([nn.LSTM(4, 3, 2), views(), unlike()]).cuda()
    there = load_on(net, tmp_path, "cuda")
    back = load_on(there, tmp_path, "cpu")
    assert alike(there_and_back(net, tmp_path), back)
    assert torch.equal(there[0](STEPS.cuda())[0], net[0](STEPS.cuda())[0])  # no warning: the weights are one block


def load_on(model: nn.Module, folder: Path, device: str) -> Any:
    save(model, folder / "model.safetensors")
    return load(folder / "model.safetensors", device=device)


# --- values ----------------------------------------------------------------------------------------------------------

PART = nn.Linear(2, 2)
SAMPLES: dict[str, Any] = {
    "int": 2**200,
    "float": [math.inf, -math.inf, math.nan],
    "tuple": (1, (2.0, ()), "a"),
    "set": {1, "a", (2, None), 1.5},
    "frozenset": frozenset({1, 2}),
    "Size": torch.Size([2, 3]),
    "dict": {"a": 1, 2: {None: True}, (1, 2): [], 1.5: "b"},
    "OrderedDict": OrderedDict([("z", 1), ("a", 2)]),
    "slice": slice(1, None, -2),
    "range": range(3, 9, 2),
    "torch": [torch.bfloat16, torch.channels_last, torch.strided],
    "device": torch.device("cuda:1"),
    "tensor": torch.tensor([[1, 2]]),
    "module": PART,
    "array": np.arange(6, dtype=np.int16).reshape(2, 3).T,
    "number": [np.float64(0.1), np.float32(0.1), np.float16(-0.0), np.int8(-3), np.uint64(2**63), np.bool_(True)],
    "enum": [Colour.RED, Colour.GREEN, Bits.TWO],
    "partial": functools.partial(functools.partial(F.elu, 2), alpha=0.5),
    "method": PART.forward,
    "function": [
        F.relu,
        F.gelu,
        torch.tanh,
        F.max_pool2d,
        torch.special.expit,
        torch.linalg.norm,
        torch.einsum,
        double,
    ],
    "class": [nn.ReLU, int, Tensor, nn.Parameter, Everything],
    "dataclass": Record("a", torch.ones(1), Record("b", None)),
    "namedtuple": Pair(1, Pair("x", None)),
    "object": None,
}


def round_trip(value: Any, where: str = "value") -> Any:
    draft = Draft()
    text = json.dumps(encode(value, where, draft), allow_nan=False)
    return decode(json.loads(text), where, FileContent(draft.tensors, draft.kept, (HERE,)))


@pytest.mark.parametrize("tag", SAMPLES)
def test_each_kind_of_value(tag: str) -> None:
    value = SAMPLES[tag]
    if tag == "object":
        utils = pytest.importorskip("torchvision.models.detection._utils")
        value = utils.Matcher(0.7, 0.3)
    assert f'"{tag}":' in json.dumps(encode(value, "value", Draft()))
    assert alike(value, round_trip(value))


def test_caches_are_made_anew() -> None:
    value = Record("a", None)
    assert value.long_name == "aa"
    again = round_trip(value)
    assert "long_name" in vars(value)
    assert "long_name" not in vars(again)
    assert again.long_name == "aa"


def test_every_tag_has_its_sample() -> None:
    assert set(SAMPLES) == set(TAGS)


OTHERS = [torch.float16, torch.device("cpu"), Colour.RED, torch.Size([1, 2]), F.relu, nn.ReLU, np.float32(2)]
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(OTHERS)),
    st.text(st.characters(exclude_categories=())),
)
KEYS = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.tuples(st.text(), st.integers())
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.builds(Pair, inner, inner),
        st.builds(lambda a, b: functools.partial(F.elu, a, key=b), inner, inner),
    ),
    max_leaves=12,
)


@given(VALUES)
def test_values_come_back(value: Any) -> None:
    assert alike(value, round_trip(value))


def lost() -> list[Any]:
    def local(x: Tensor) -> Tensor:
        return x

    cycle: list[Any] = []
    cycle.append({"again": cycle})
    masked = np.ma.masked_array([1, 2], mask=[True, False])
    strange = Record("a", None)
    object.__setattr__(strange, "beside", 1)
    return [
        *[(lambda x: x, "lambda"), (local, "local"), (cycle, "contains itself"), (object(), "builtins.object")],
        *[(Bits.ONE | Bits.TWO, "not a single member"), (masked, "MaskedArray"), (strange, "'beside'")],
        *[(np.array(["a"]), "ndarray"), (b"bytes", "bytes"), (iter([]), "list_iterator"), (os, "module")],
        *[(torch.zeros(2).to_sparse(), "sparse"), (torch.zeros(2, device="meta"), "meta")],
        *[(torch.ones(2, requires_grad=True) * 2, "graph"), (torch.ones(2, dtype=torch.cfloat).conj(), "conjugated")],
        *[(torch.Tensor.relu, "method_descriptor"), (type("Made", (nn.Module,), {}), "Made"), ("".join, "join")],
    ]


@pytest.mark.parametrize(("value", "what"), lost(), ids=lambda x: x if isinstance(x, str) else "")
def test_what_cannot_be_saved_is_named(value: Any, what: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    net[1][0].act_fn = {"inner": [value]}
    with pytest.raises(TypeError, match=r"^1\.0\.act_fn\['inner'\]\[0\].*" + what):
        save(net, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
    net[1][0].act_fn = {"inner": [torch.relu]}
    check_same(net, there_and_back(net, tmp_path), torch.ones(1, 2))


def test_models_that_cannot_be_saved(tmp_path: Path) -> None:
    class Local(nn.Module):
        pass

    class Closed(nn.Linear):
        __slots__ = ("hidden",)

    path = tmp_path / "model.safetensors"

    def refuse(model: Any, pattern: str) -> None:
        with pytest.raises(TypeError, match=pattern):
            save(model, path)

    refuse(nn.Sequential(Local()), r"^0 is tests\.test_storage\.test_models_that_cannot_be_saved.*top level")
    closed = Closed(2, 2)
    closed.hidden = 1
    refuse(closed, r"hidden.*__slots__")
    refuse(nn.Sequential(nn.LazyLinear(3)), r"^0 .*lazy.*run the model once")
    refuse(nn.Linear(2, 2).state_dict(), r"must be a torch.nn.Module")
    hooking = nn.Sequential(nn.ReLU())
    hooking[0].register_forward_hook(lambda *_: None)
    refuse(hooking, r"^0 is a module with the hook .*<lambda> in _forward_hooks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = nn.utils.weight_norm(nn.Linear(2, 2))
    refuse(old, r"^weight .*graph")
    del old.weight
    refuse(old, r"hook WeightNorm.*parametrizations")
    grad = nn.Linear(2, 2)
    grad.weight.register_hook(lambda g: g)
    refuse(grad, r"^weight .*gradient hook")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(2, 2))
    refuse(nn.Sequential(scripted), r"^0: .*TorchScript")
    graph = torch.fx.symbolic_trace(nn.Linear(2, 2))
    refuse(graph, r"GraphModule")
    assert not path.exists()


# --- whom to trust ---------------------------------------------------------------------------------------------------


def tampered(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite the recipe of a file."""
    with safe_open(str(path), framework="pt") as opened:
        tensors = {key: opened.get_tensor(key).clone() for key in opened.keys()}  # noqa: SIM118
        recipe = json.loads(opened.metadata()["convexnet"])
    changed = change(recipe)
    text = changed if isinstance(changed, str) else json.dumps(recipe)
    save_file(tensors, str(path), metadata={"convexnet": text})


def attribute(recipe: Any, value: Any) -> None:
    recipe["modules"][0]["attributes"].append(["function", value])


HOSTILE = [
    *["os:system", "posix:system", "subprocess:Popen", "builtins:eval", "builtins:exec", "builtins:getattr"],
    *["builtins:open", "builtins:__import__", "importlib:import_module", "pickle:loads", "operator:call"],
    *["torch:load", "torch.serialization:load", "torch.serialization:save", "torch.hub:load", "torch.jit:load"],
    *["torch.hub:load_state_dict_from_url", "torch.utils.cpp_extension:load", "torch.utils.cpp_extension:load_inline"],
    *["torch:from_file", "torch:import_ir_module", "torch:set_num_threads", "torch:fork", "torch:compile"],
    *["torch:set_default_dtype", "torch._C:_jit_set_profiling_mode", "torch:_cudnn_init_dropout_state"],
    *[
        "torch.nn.functional:importlib.import_module",
        "torch.nn.functional:torch.load",
        "torch.nn.functional:warnings.warn",
    ],
    *[
        "torch.nn.functional:boolean_dispatch",
        "torch.nn.functional:_add_docstr",
        "torchvision.ops.boxes:_log_api_usage_once",
    ],
    *["torch.nn.modules.linear:Linear.__init__", "torch.nn.modules.module:Module.load_state_dict"],
    *[
        "timm.models._helpers:load_checkpoint",
        "timm.models._helpers:load_state_dict",
        "timm.models._hub:download_from_hf",
    ],
    *["timm.models._factory:create_model", "torchvision.models.resnet:resnet18", "torchvision.models._api:get_model"],
    *["torch.utils.model_dump.__main__:main", "convexnet.storage.file:save", "convexnet.storage.file:load"],
    *["convexnet.lab.cli:main", "", "torch", ":", "torch.nn.functional:", "torch.nn.functional:relu.__globals__"],
    *["..torch:load", "torch/load:x", "torch.nn.functional:relu:x"],
]


def from_recipe(model: nn.Module, change: Callable[[Any], Any], allow: Any = ()) -> nn.Module:
    """What a file with a changed recipe gives, without writing it."""
    recipe, tensors = describe_model(model)
    recipe = json.loads(json.dumps(recipe))
    change(recipe)
    return rebuild_model(recipe, list(tensors), tensors.__getitem__, allow, torch.device("cpu"))


DISTRUST = r"does not trust|does not exist here|which is not a|has no "


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_functions(path: str) -> None:
    """Neither as an attribute, nor inside a partial, nor as a hook, nor as a class."""
    places: list[Callable[[Any, str], Any]] = [
        lambda recipe, name: attribute(recipe, {"function": name}),
        lambda recipe, name: attribute(recipe, {"partial": [{"function": name}, {"tuple": ["x"]}, {"dict": []}]}),
        lambda recipe, name: recipe["modules"][0]["hooks"].append(["_forward_hooks", {"function": name}, [], False]),
    ]
    for place in places:
        with pytest.raises(ValueError, match=DISTRUST):
            from_recipe(nn.ReLU(), lambda recipe, place=place: place(recipe, path))
        from_recipe(nn.ReLU(), lambda recipe, place=place: place(recipe, "torch.nn.functional:relu"))  # the control
    for kind in ("class", "enum", "dataclass", "namedtuple", "object"):
        content = path if kind == "class" else [path, []]
        with pytest.raises(ValueError, match=DISTRUST):
            from_recipe(nn.ReLU(), lambda recipe, kind=kind, content=content: attribute(recipe, {kind: content}))
    with pytest.raises(ValueError, match=DISTRUST):
        from_recipe(nn.ReLU(), lambda recipe: recipe["modules"][0].update({"class": path}))


def test_the_paths_of_hostile_functions_exist() -> None:
    """Most of the list above would be reachable if they were followed: else the test tests nothing."""
    found = 0
    for path in HOSTILE:
        module, _, name = path.partition(":")
        try:
            value: Any = __import__(module, fromlist=["x"]) if module and "__main__" not in module else None
            found += callable(functools.reduce(getattr, name.split("."), value))
        except (AttributeError, ImportError, ValueError):
            continue
    assert found > 35


@pytest.mark.parametrize(
    "path", ["torchvision.models._api:WeightsEnum", "torch.nn.parameter:UninitializedParameter", "builtins:type"]
)
def test_classes_that_are_no_layers(path: str) -> None:
    """Called by a forward, they would do what their constructors do."""
    with pytest.raises(ValueError, match=DISTRUST):
        from_recipe(nn.ReLU(), lambda recipe: attribute(recipe, {"class": path}))
    from_recipe(nn.ReLU(), lambda recipe: attribute(recipe, {"class": "torch.nn.modules.linear:Linear"}))


CLASSES = [
    *["collections:OrderedDict", "torch.nn.functional:relu", "torch.nn.parameter:Parameter", "builtins:object"],
    *["torch.fx.graph_module:GraphModule", "torch.jit._script:RecursiveScriptModule", "torch.nn:Linear"],
    *["torch.distributed.fsdp.fully_sharded_data_parallel:FullyShardedDataParallel", "torch.nn.modules.linear:Gone"],
    *["torch.nn.gone:Linear", "torch.nn.modules.linear:Tensor", "tests.modules:Function"],
]


@pytest.mark.parametrize("path", CLASSES)
def test_hostile_classes(path: str) -> None:
    with pytest.raises(ValueError, match=DISTRUST):
        from_recipe(nn.ReLU(), lambda recipe: recipe["modules"][0].update({"class": path}))
    control = "torch.nn.modules.activation:ReLU6"
    assert type(from_recipe(nn.ReLU(), lambda recipe: recipe["modules"][0].update({"class": control}))) is nn.ReLU6


def test_methods_are_functions_too() -> None:
    cases = [("forward", (), True), ("load_state_dict", (), False), ("__setstate__", (), False)]
    for name, allow, fine in [*cases, ("load_state_dict", ("torch.nn",), True)]:
        if fine:
            loaded: Any = from_recipe(nn.ReLU(), lambda r, name=name: attribute(r, {"method": [0, name]}), allow)
            assert loaded.function.__self__ is loaded
        else:
            with pytest.raises(ValueError, match=r"method .* does not trust"):
                from_recipe(nn.ReLU(), lambda r, name=name: attribute(r, {"method": [0, name]}), allow)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that leaves a mark where it is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "canarypackage").mkdir()
    (tmp_path / "canarypackage" / "__init__.py").write_text(
        f"import os\nfrom os import system\nfrom torch import nn, load\nopen({str(mark)!r}, 'w').close()\n"
        "class Net(nn.Linear):\n    def __init__(self):\n        raise AssertionError('constructed')\n"
        "def twice(x):\n    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "canarypackage", raising=False)
    return mark


@pytest.mark.parametrize("what", ["class", "function"])
def test_nothing_untrusted_is_imported(what: str, canary: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    save(nn.Linear(2, 2), target)
    if what == "class":
        tampered(target, lambda recipe: recipe["modules"][0].update({"class": "canarypackage:Net"}))
    else:
        tampered(target, lambda recipe: attribute(recipe, {"function": "canarypackage:twice"}))
    with pytest.raises(ValueError, match=r"canarypackage:.* allow=\('canarypackage',\)"):
        load(target)
    with pytest.raises(ValueError, match=r"does not trust"):
        load(target, allow=("canary", "canarypackage.sub", "canarypackagex"))
    assert not canary.exists()
    loaded: Any = load(target, allow=("canarypackage",))
    assert canary.exists()
    if what == "class":
        assert type(loaded).__name__ == "Net"  # and its constructor, which would fail, did not run
    else:
        assert loaded.function(3) == 6
    load(target, allow="canarypackage")
    for name in ("system", "os.system", "load", "nn.Linear"):  # merely imported there
        tampered(target, lambda recipe, name=name: attribute(recipe, {"function": f"canarypackage:{name}"}))
        with pytest.raises(ValueError, match=r"does not trust|does not exist here"):
            load(target, allow=("canarypackage",))
        tampered(target, lambda recipe: recipe["modules"][0]["attributes"].pop())


def test_loading_calls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither constructors, nor right inverses, nor `__setattr__`, nor the functions that are named."""
    called: list[str] = []

    def spy(name: str) -> Callable[..., Any]:
        return lambda *_, **__: called.append(name)

    save(nn.Sequential(Everything(), parametrised()), tmp_path / "model.safetensors")
    monkeypatch.setattr(Everything, "__init__", spy("Everything.__init__"))
    monkeypatch.setattr(Everything, "__setattr__", spy("Everything.__setattr__"))
    monkeypatch.setattr(nn.Linear, "__init__", spy("Linear.__init__"))
    monkeypatch.setattr(TwoParts, "right_inverse", spy("right_inverse"))
    monkeypatch.setattr(Record, "__init__", spy("Record.__init__"))
    load(tmp_path / "model.safetensors", allow=(HERE,))
    assert called == []
    nn.Linear(2, 2)
    assert called == ["Linear.__init__"]


def test_attributes_do_not_stand_in_for_methods() -> None:
    """An attribute hides a method of its module: what is called while loading must not be looked up there."""
    members = {**vars(nn.Module), **vars(nn.RNNBase), **vars(nn.GRU)}
    names = [name for name, member in members.items() if callable(member) and not name.startswith("__")]
    assert {"register_buffer", "flatten_parameters", "_register_load_state_dict_pre_hook", "forward"} < {*names}
    net = nn.Sequential(computed_recurrent(), parametrised(), hooked())
    recipe, tensors = describe_model(net)
    for entry in recipe["modules"]:
        for name in names:
            entry["attributes"].append([name, {"function": "tests.test_storage:fails"}])
    loaded = rebuild_model(recipe, list(tensors), tensors.__getitem__, (HERE,), torch.device("cpu"))
    with pytest.raises(AssertionError, match="was called"):
        loaded(STEPS)


def fails(*_: Any, **__: Any) -> None:
    raise AssertionError("was called")


def test_users_own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(Function(double), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"the model is tests\.modules:Function.*allow=\('tests',\)"):
        load(tmp_path / "model.safetensors")
    check_same(Function(double), load(tmp_path / "model.safetensors", allow=("tests",)))
    main: Any = sys.modules["__main__"]
    kind = type("Scripted", (nn.Linear,), {"__module__": "__main__"})
    monkeypatch.setattr(main, "Scripted", kind, raising=False)
    with pytest.warns(UserWarning, match=r"Scripted is a class of this script .* put it into a module"):
        save(kind(2, 2), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"__main__:Scripted.*allow=\('__main__',\)"):
        load(tmp_path / "model.safetensors")
    assert type(load(tmp_path / "model.safetensors", allow=("__main__",))) is kind
    monkeypatch.delattr(main, "Scripted")
    with pytest.raises(ValueError, match=r"__main__:Scripted, which does not exist here"):
        load(tmp_path / "model.safetensors", allow=("__main__",))


TRUSTED = [
    *(F.relu, F.gelu, F.max_pool2d, torch.tanh, torch.einsum, torch.special.expit, torch.linalg.norm),
    *(nn.init.ones_, math.sqrt, operator.add, max),
]


@pytest.mark.parametrize("function", TRUSTED, ids=lambda function: function.__name__)
def test_trusted_functions(function: Any) -> None:
    path = path_of(function)
    assert path is not None
    assert import_trusted(path, "a function", (), "act") is function


# --- files that are not whole ----------------------------------------------------------------------------------------


def test_truncated_at_any_length(tmp_path: Path, seed: int) -> None:
    target = tmp_path / "model.safetensors"
    save(constrained(), target)
    whole = target.read_bytes()
    lengths = [0, 1, 7, 8, 9, 100, len(whole) - 1, *random.Random(seed).sample(range(len(whole)), 20)]
    for length in lengths:
        target.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors .*(truncated|corrupt)"):
            load(target)
    target.write_bytes(whole)
    check_same(load(target), load(target), ROWS)


def test_other_files(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    for archive in (True, False):
        torch.save(nn.Linear(2, 2).state_dict(), target, _use_new_zipfile_serialization=archive)
        with pytest.raises(ValueError, match=r"not a safetensors file but one of torch\.save, .*load_state_dict"):
            load(target)
    target.write_bytes(pickle.dumps(Explodes()))
    with pytest.raises(ValueError, match=r"not a safetensors file"):
        load(target)
    save_file(nn.Linear(2, 2).state_dict(), str(target))
    with pytest.raises(ValueError, match=r"no recipe.*load_state_dict"):
        load(target)
    with pytest.raises(FileNotFoundError, match=r"not there"):
        load(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"folder"):
        load(tmp_path)


class Explodes:
    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


def rename(recipe: Any, path: str, present: str) -> str:
    return json.dumps(recipe).replace(path, present)


DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "newer": (lambda r: r.update(format="convexnet.model/2"), r"'convexnet.model/2' and this convexnet reads"),
    "older": (lambda r: r.update(format=None), r"its format is None"),
    "no json": (lambda r: "{", r"cannot be loaded"),
    "no object": (lambda r: "[1]", r"damaged"),
    "too deep": (lambda r: "[" * 100_000, r"damaged"),
    "no modules": (lambda r: r["modules"].clear(), r"damaged"),
    "gone": (lambda r: rename(r, "linear:Linear", "linear:Linear3"), r"has no Linear3.*install the version"),
    "gone module": (lambda r: rename(r, "modules.linear:", "modules.linear3:"), r"cannot be imported"),
    "extra tensor": (lambda r: r["tensors"].pop(), r"in the file and not in its recipe"),
    "missing tensor": (lambda r: r["tensors"][0].update({"in": "gone"}), r"'0.weight'|'gone'"),
    "shape": (lambda r: r["tensors"][0].update(shape=[4, 6]), r"'0.weight' is torch.float32 \(6, 4\).*\[4, 6\]"),
    "dtype": (lambda r: r["tensors"][0].update(dtype="float64"), r"recipe says float64"),
    "not a dtype": (lambda r: r["tensors"][0].update(dtype="load"), r"recipe says load"),
    "stride": (lambda r: r["tensors"][0].update(stride=[1, 2**40]), r"damaged"),
    "overlap": (lambda r: r["tensors"][0].update(stride=[1, 0]), r"damaged"),
    "negative": (lambda r: r["tensors"][0].update(stride=[4, -1]), r"damaged"),
    "beyond": (lambda r: r["tensors"][0].update(stride=[4, 1], offset=1), r"damaged"),
    "no parameter": (lambda r: r["tensors"][0].pop("parameter"), r"0.weight is not a Parameter"),
    "base": (
        lambda r: r["modules"][1]["attributes"].append(["_modules", {"dict": []}]),
        r"0\._modules is not an attribute",
    ),
    "cycle of numbers": (lambda r: r["modules"][0]["_modules"].update({"0": 99}), r"damaged"),
    "tag": (lambda r: attribute(r, {"code": "print()"}), r"unknown tag 'code'"),
    "two tags": (lambda r: attribute(r, {"tuple": [], "set": []}), r"2 tags"),
    "fields": (
        lambda r: rename(r, '"epsilon"', '"eps"'),
        r"Exponentiate with the fields \['eps'\].*\['epsilon'\] here",
    ),
    "member": (lambda r: attribute(r, {"enum": ["timm.layers.format:Format", "GONE"]}), r"damaged"),
    "dtype value": (lambda r: attribute(r, {"torch": "load"}), r"torch.load, which is not a dtype"),
    "number": (lambda r: attribute(r, {"number": ["object", 1]}), r"number of type object"),
    "computed": (lambda r: r["modules"][1].update(computed=["forward"]), r"damaged"),
    "list": (lambda r: r["modules"][1].update(computed=["bent"]), r"damaged"),
    "hook": (
        lambda r: r["modules"][0]["hooks"].append(["_modules", {"function": "math:sqrt"}, [], False]),
        r"hook in '_modules'",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    change, message = DAMAGE[name]
    target = tmp_path / "model.safetensors"
    save(constrained(), target)
    tampered(target, lambda recipe: None)
    load(target)  # the negative control: rewritten without a change
    tampered(target, change)
    with pytest.raises(ValueError, match=r"model\.safetensors .*" + message):
        load(target)


def test_any_damage_is_an_error_or_a_model(tmp_path: Path, seed: int) -> None:
    """Recipes changed at random give a ValueError that names the file, or a module: never another error."""
    target = tmp_path / "model.safetensors"
    save(nn.Sequential(constrained(), parametrised(), nn.GRU(2, 2)), target)
    with safe_open(str(target), framework="pt") as opened:
        tensors = {key: opened.get_tensor(key).clone() for key in opened.keys()}  # noqa: SIM118
        text = opened.metadata()["convexnet"]
    draw = random.Random(seed)
    outcomes = {"error": 0, "model": 0}
    values: list[Any] = [None, -1, 10**30, "", "x", [], {}, [None], 0.5, True, {"tuple": 3}, {"tensor": -9}, [[[]]]]

    def fetch(key: str) -> Tensor:
        return tensors[key]

    for _ in range(300):
        recipe = json.loads(text)
        node, path = recipe, []
        while isinstance(node, (dict, list)) and node and (draw.random() < 0.85 or not path):
            key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
            path.append((node, key))
            node = node[key]
        parent, key = path[-1]
        if draw.random() < 0.3:
            del parent[key]
        else:
            parent[key] = draw.choice(values)
        try:
            loaded = read(json.dumps(recipe), tensors, fetch, target)
        except ValueError as error:
            outcomes["error"] += str(target) in str(error)
        else:
            outcomes["model"] += isinstance(loaded, nn.Module)
    assert sum(outcomes.values()) == 300
    assert min(outcomes.values()) > 20, outcomes


def read(text: str, tensors: dict[str, Tensor], fetch: Callable[[str], Tensor], path: Path) -> nn.Module:
    """`load` of a file with another recipe, which is not written for it."""

    class Opened:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> Opened:
            return self

        def __exit__(self, *_: object) -> None: ...

        def metadata(self) -> dict[str, str]:
            return {"convexnet": text}

        def keys(self) -> list[str]:
            return list(tensors)

        get_tensor = staticmethod(fetch)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr("safetensors.safe_open", Opened)
        return load(path, allow=(HERE,))


def test_another_version_is_noted(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    save(nn.ReLU(), target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(target)
    tampered(target, lambda recipe: recipe["versions"].update(torch="1.0.0"))
    with pytest.warns(UserWarning, match=r"saved with torch 1\.0\.0, here"):
        load(target)


# --- writing whole ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["serialise", "interrupt", "replace", "fsync"])
def test_a_failed_save_leaves_the_old_file(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.safetensors"
    old = nn.Linear(2, 2)
    save(old, target)
    before = target.read_bytes()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    def half_written(tensors: Any, path: str, metadata: Any = None) -> None:
        Path(path).write_bytes(before[:50])
        raise KeyboardInterrupt if fails == "interrupt" else OSError("no space left")

    with monkeypatch.context() as patch:
        if fails in ("serialise", "interrupt"):
            patch.setattr("safetensors.torch.save_file", half_written)
        else:
            patch.setattr(os, fails, broken)
        with pytest.raises((OSError, KeyboardInterrupt)):
            save(nn.Linear(3, 3), target)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == before
    check_same(old, load(target), torch.ones(1, 2))
    save(nn.Linear(3, 3), target)  # the negative control: when nothing fails, it is the new one
    assert load(target).get_parameter("weight").shape == (3, 3)
    assert list(tmp_path.iterdir()) == [target]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone"):
        save(nn.ReLU(), tmp_path / "gone" / "model.safetensors")
    with pytest.raises(IsADirectoryError, match=r"is a folder"):
        save(nn.ReLU(), tmp_path)
    save(nn.ReLU(), str(tmp_path / "model"))
    assert type(load(str(tmp_path / "model"))) is nn.ReLU


def test_a_header_that_could_not_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "LIMIT", 5000)
    net = nn.ReLU()
    save(net, tmp_path / "model.safetensors")
    net.table = list(range(2000))
    with pytest.raises(ValueError, match=r"keep long lists of numbers as tensors"):
        save(net, tmp_path / "model.safetensors")


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(nn.ReLU(), tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for call in (lambda: save(nn.ReLU(), tmp_path / "x"), lambda: load(tmp_path / "model.safetensors")):
        with pytest.raises(ModuleNotFoundError, match="pip install safetensors"):
            call()


def test_tensors_and_file_belong_together() -> None:
    place = {"in": "a", "dtype": "float32", "shape": [2], "requires_grad": False}
    cpu = torch.device("cpu")
    assert torch.equal(unpack([place], ["a"], lambda _: torch.ones(2), cpu)[0], torch.ones(2))
    with pytest.raises(ValueError, match=r"'b' is in the file"):
        unpack([place], ["a", "b"], lambda _: torch.ones(2), cpu)

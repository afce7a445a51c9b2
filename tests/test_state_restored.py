"""Whatever a public function meets, the caller's model and the settings of Python and torch stay as they were.

Every entry point is called on models that are refused, fail in the middle, raise in a hook, are interrupted, or change
everything within reach in their forward; a snapshot before the call must equal the one after it.
"""

from __future__ import annotations

import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils import _python_dispatch

import convexnet as cx
from convexnet.initialise import correlation
from tests.drawing import some
from tests.modules import Function

ROWS = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])
HOOKS = [name for name in vars(torch_module) if name.startswith("_global_") and name.endswith(("hooks", "called"))]


# --- snapshots -------------------------------------------------------------------------------------------------------


def of_value(value: Any, depth: int = 0) -> Any:
    """A value as something that compares by what it holds."""
    if isinstance(value, Tensor):
        data = value.detach()
        grad = None if not value.is_leaf or value.grad is None else value.grad.tolist()
        place = data.data_ptr() if data.layout == torch.strided else 0
        return (id(value), place, data.dtype, data.to_dense().tolist(), value.requires_grad, grad)
    if isinstance(value, nn.Module) and depth:
        return id(value)
    if isinstance(value, dict):
        return [(key, of_value(item, depth + 1)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return (id(value) if isinstance(value, list) else 0, [of_value(item, depth + 1) for item in value])
    return (type(value), value if isinstance(value, (int, float, str, bool, type(None), set)) else id(value))


def of_model(model: nn.Module) -> Any:
    modules = list(model.named_modules())
    classes = {kind for _, module in modules for kind in type(module).__mro__ if kind.__module__ == __name__}
    return (
        [(name, id(module), of_value(vars(module))) for name, module in modules],
        {kind: {k: of_value(v, 1) for k, v in vars(kind).items() if not k.startswith("__")} for kind in classes},
    )


def of_surroundings() -> dict[str, Any]:
    named = [item for item in logging.root.manager.loggerDict.values() if isinstance(item, logging.Logger)]
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "benchmark": torch.backends.cudnn.benchmark,
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "Python's numbers": random.getstate(),
        "warnings": list(warnings.filters),
        "showing warnings": warnings.showwarning,
        "levels": {logger.name: logger.level for logger in (logging.root, *named)}
        | {"disabled": logging.root.disabled},
        "streams": (sys.stdout, sys.stderr),
        "hooks": {name: list(getattr(torch_module, name).items()) for name in HOOKS},
        "dispatch modes": len(_python_dispatch._get_current_dispatch_mode_stack()),
        "function modes": torch.overrides._len_torch_function_stack(),
        "transforms": torch._C._functorch.maybe_current_level(),
        "exporting": (torch.compiler.is_exporting(), torch.compiler.is_compiling()),
        "device": torch.get_default_device(),
    }


# --- awkward models --------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """Layers with everything that a forward may change: weights, buffers, attributes, lists, what the class holds."""

    b: Tensor
    calls = 0
    shared: list[int] = []  # noqa: RUF012 (held by the class on purpose)

    def __init__(self, act: Callable[[Layers, Tensor], Any], hooked: bool = False, sparse: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 1)
        self.register_buffer("b", torch.ones(4))
        self.seen: list[Any] = []
        self.nested: dict[str, list[int]] = {"a": [1]}
        self.constant = torch.ones(4)
        self.act = act
        with torch.no_grad():
            self.second.weight.abs_()
        self.norm.eval()
        self.first.weight.grad = torch.ones(4, 3)
        self.second.bias.requires_grad_(False)
        if sparse:
            self.s = nn.Parameter(torch.eye(4).to_sparse(), requires_grad=False)
        if hooked:
            self.norm.register_forward_hook(self.raise_)

    @staticmethod
    def raise_(*_: Any) -> None:
        raise RuntimeError("the hook says no")

    def forward(self, x: Tensor) -> Any:
        return self.second(self.act(self, self.norm(self.first(x))))


def changing(model: Layers, x: Tensor) -> Tensor:
    """Everything within reach that a traced forward may change."""
    model.calls += 1
    type(model).calls += 1
    type(model).shared.append(1)
    model.seen.append(x)
    model.nested["a"].append(2)
    model.nested["b"] = []
    model.late = nn.Linear(2, 2)
    model.first.bias.requires_grad_(False)
    model.b = model.b + 1
    model.constant = torch.zeros(4)
    model.training = True
    return torch.relu(x)


def settings(model: Layers, x: Tensor) -> Tensor:
    """Settings of Python and torch."""
    torch.manual_seed(int(random.random() * 100) + int(np.random.rand() * 100))  # noqa: NPY002
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    warnings.simplefilter("ignore")
    logging.getLogger("torch.export").setLevel(1)
    logging.getLogger().setLevel(1)
    torch_module.register_module_forward_pre_hook(lambda *_: None)
    return torch.relu(x)


def clipping(model: Layers, x: Tensor) -> Tensor:
    model.first.weight.data.clamp_(min=0)
    model.second.weight.data = model.second.weight.data * 2
    model.b.data.add_(1)
    return torch.relu(x)


def interrupted(model: Layers, x: Tensor) -> Tensor:
    changing(model, x)
    raise KeyboardInterrupt


def failing(model: Layers, x: Tensor) -> Tensor:
    changing(model, x)
    settings(model, x)
    clipping(model, x)
    raise ValueError("in the middle")


def branching(model: Layers, x: Tensor) -> Tensor:
    model.b = model.b * 2
    return x if float(x.sum()) > 0 else -x


MODELS: dict[str, Callable[[], nn.Module]] = {
    "refused by the calculus": lambda: Layers(lambda _, x: torch.tanh(x)),
    "concave": lambda: Layers(lambda _, x: -torch.relu(x)),
    "changes itself": lambda: Layers(changing),
    "changes settings": lambda: Layers(settings),
    "clips its weights": lambda: Layers(clipping),
    "interrupted": lambda: Layers(interrupted),
    "fails": lambda: Layers(failing),
    "branches": lambda: Layers(branching),
    "a hook that raises": lambda: Layers(lambda _, x: torch.relu(x), hooked=True),
    "no output": lambda: Function(lambda x: None),
    "another shape": lambda: nn.Linear(5, 1),
    "sparse": lambda: Layers(lambda model, x: torch.relu(x) @ model.s, sparse=True),
    "convex": lambda: Layers(lambda _, x: torch.relu(x)),
}


def exported(model: nn.Module) -> Any:
    cvxpy = pytest.importorskip("cvxpy")
    return cx.to_cvxpy(model, cvxpy.Variable(3))


ENTRIES: dict[str, Callable[[nn.Module], Any]] = {
    "certify": lambda model: cx.certify(model, ROWS),
    "constrain": lambda model: cx.constrain(model, ROWS),
    "convexify": lambda model: cx.convexify(model, ROWS, activation=None, init="paper"),
    "falsify": lambda model: cx.falsify(model, ROWS, budget=20),
    "minimise": lambda model: cx.minimise(model, cx.Box(-1, 1, shape=(3,)), max_steps=2),
    "to_cvxpy": exported,
    "to_lp": lambda model: cx.to_lp(model, cx.Box(-1, 1, shape=(3,))),
    "bake": lambda model: cx.bake(model, ROWS),
    "split": lambda model: cx.split(model, ROWS),
    "correlation": lambda model: correlation(model, ROWS),
}
FEW = ("changes itself", "clips its weights", "interrupted", "fails", "sparse", "convex")
KEEPS = {("constrain", "convex"), ("constrain", "changes itself")}
"""Calls that succeed, and whose purpose is to change the model."""


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Other than the usual ones, so that putting back a usual one is noticed."""
    threads, level = torch.get_num_threads(), logging.getLogger("torch.export").level
    torch.set_num_threads(2)
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    yield
    torch.set_num_threads(threads)
    logging.getLogger("torch.export").setLevel(level)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        *(("certify", name) for name in MODELS),
        *(
            case
            for entry in ENTRIES
            if entry != "certify"
            for case in some(product([entry], FEW), 2, f"undisturbed, {entry}")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_left_behind(entry: str, name: str) -> None:
    model = MODELS[name]()
    drawn = entry == "convexify"  # its weights are drawn, where it comes so far
    before = of_model(model), of_surroundings()
    failure: BaseException | None = None
    try:
        ENTRIES[entry](model)
    except (cx.ConvexNetError, ValueError, TypeError, KeyboardInterrupt) as error:
        failure = error
    except RuntimeError as error:
        assert entry == "correlation"  # it passes on what the forward raises
        failure = error
    after = of_model(model), of_surroundings()
    assert isinstance(failure, KeyboardInterrupt) == (name == "interrupted")
    if drawn and failure is None:
        after[1]["torch's numbers"] = before[1]["torch's numbers"]
    levels = after[1]["levels"]  # of loggers that there were: modules that are imported meanwhile bring their own
    after[1]["levels"] = {name: levels[name] for name in before[1]["levels"]}
    for key, value in before[1].items():
        assert after[1][key] == value, key
    if failure is not None or (entry, name) not in KEEPS:
        assert after[0] == before[0]

"""What people do with a network besides calling it: batches, files, averages, precisions, compilers; for each kind.

The equations, convexity and training are tested in `test_nn` and `test_nn_convolutional`.
"""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import convexnet as cx
from tests.chords import randomise
from tests.drawing import some

N = cx.nn
IMAGE = (2, 6, 6)
LAYERS = [(3, 3, 2), (4, 3)]

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "full": (lambda: N.FICNN(4, (7, 6), 2, quadratic=1), ((4,),)),
    "full, deep and narrow": (lambda: N.FICNN(1, (2,) * 12, activation="elu", passthrough=False), ((1,),)),
    "full, no layers": (lambda: N.FICNN(4, (), 2), ((4,),)),
    "full, monotone, projected": (lambda: N.FICNN(4, (7, 6), 2, monotone=[0], constraint="clip"), ((4,),)),
    "partial": (lambda: N.PICNN(3, 4, (7, 6), 2, x_norm=True), ((3,), (4,))),
    "partial, projected": (lambda: N.PICNN(3, 4, (7,), constraint="clip", passthrough=False), ((3,), (4,))),
    "convolutional": (lambda: N.ConvFICNN(IMAGE, LAYERS, hidden=(5,)), (IMAGE,)),
    "convolutional, partial": (
        lambda: N.ConvPICNN((1, 6, 6), IMAGE, LAYERS, hidden=(5,), x_norm=True),
        ((1, 6, 6), IMAGE),
    ),
    "recurrent": (lambda: N.ICRNN(2, (5, 4), 2), ((3, 2),)),
    "recurrent, one step": (lambda: N.ICRNN(2, (5,), outputs="last", constraint="clip"), ((1, 2),)),
}


def built(name: str, batch: int = 5) -> tuple[nn.Module, tuple[Tensor, ...]]:
    build, shapes = NETWORKS[name]
    return build().eval(), tuple(torch.randn(batch, *shape) for shape in shapes)


def proved(net: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    return cx.certify(net, inputs, wrt=len(inputs) - 1).convex


def gradients(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Values, the gradient with respect to the last input, and to the parameters."""
    own = inputs[-1].detach().requires_grad_()
    out = net(*inputs[:-1], own)
    wanted = [own, *net.parameters()]
    found = torch.autograd.grad(out.square().sum(), wanted, allow_unused=True, materialize_grads=True)
    return out.detach(), found[0], list(found[1:])


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_any_batch_size_gives_the_same(name: str) -> None:
    """Values and gradients of every sample, and gradients of parameters as the sum of those of the samples."""
    net, inputs = built(name, 33)
    net, inputs = net.double(), tuple(tensor.double() for tensor in inputs)
    values, rows, whole = gradients(net, inputs)
    for size in (1, 2, 7):
        parts = [gradients(net, tuple(tensor[at : at + size] for tensor in inputs)) for at in range(0, 33, size)]
        torch.testing.assert_close(torch.cat([part[0] for part in parts]), values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]), rows, rtol=1e-11, atol=1e-11)
        for index, expected in enumerate(whole):
            total = torch.stack([part[2][index] for part in parts]).sum(0)
            torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-10)
    empty = net(*(tensor[:0] for tensor in inputs))
    assert empty.shape == (0, *values.shape[1:])


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_each_sample_at_once(name: str) -> None:
    net, inputs = built(name, 4)
    parameters = {key: value.detach() for key, value in net.named_parameters()}

    def loss(parameters: dict[str, Tensor], *sample: Tensor) -> Tensor:
        return torch.func.functional_call(net, parameters, tuple(part[None] for part in sample)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *[0] * len(inputs)))(parameters, *inputs)
    *_, whole = gradients(net, inputs)
    for (key, found), expected in zip(each.items(), whole, strict=True):
        torch.testing.assert_close(
            found.sum(0), expected, rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", some(NETWORKS, 4, "second derivatives"))
def test_gradients_of_gradients(name: str) -> None:
    """What unrolled learning needs, against finite differences."""
    net, inputs = built(name, 2)
    net = net.double()
    fixed = tuple(tensor.double() for tensor in inputs[:-1])
    y = inputs[-1].double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y: net(*fixed, y), (y,), atol=1e-4)


# --- copies and files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(NETWORKS, 4, "files"))
def test_files_and_copies(name: str, tmp_path: Path, seed: int) -> None:
    net, inputs = built(name)
    expected = net(*inputs).detach()
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    cx.save(net, tmp_path / "net.safetensors")
    others = {
        "deepcopy": copy.deepcopy(net),
        "pickle": pickle.loads(pickle.dumps(net)),
        "save": cx.load(tmp_path / "net.safetensors").eval(),
    }
    other = built(name)[0]
    other.load_state_dict(state)
    others["state_dict"] = other
    randomise(copy.deepcopy(net), 1.0, torch.Generator().manual_seed(seed))  # of a copy: the original stays
    for how, twin in others.items():
        assert torch.equal(twin(*inputs), expected), how
        assert proved(twin, inputs), how
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5)
    for how, twin in others.items():
        assert torch.equal(twin(*inputs), expected), f"{how} shares memory"


@pytest.mark.parametrize("name", some(NETWORKS, 4, "averages"))
def test_averages_of_weights_stay_convex(name: str) -> None:
    """EMA and SWA: for computed weights because every value is right, for projected ones because a cone is convex."""
    net, inputs = built(name)
    average = AveragedModel(net)
    for _ in range(3):
        other = built(name)[0]
        average.update_parameters(other)
    assert proved(average.module.eval(), inputs)
    assert not torch.equal(average.module(*inputs), net(*inputs))


@pytest.mark.parametrize("name", some(NETWORKS, 4, "baked"))
def test_baked(name: str) -> None:
    net, inputs = built(name)
    plain = cx.bake(net)
    torch.testing.assert_close(plain(*inputs), net(*inputs), rtol=1e-4, atol=1e-5)
    assert proved(plain, inputs)
    assert not any(type(module).__name__.startswith("Convex") for module in plain.modules())


# --- precisions ------------------------------------------------------------------------------------------------------

ROOM = {torch.bfloat16: 0.08, torch.float16: 0.01, torch.float64: 1e-5}


@pytest.mark.parametrize(
    ("name", "dtype"), [case for name in NETWORKS for case in some(product([name], ROOM), 1, name)]
)
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    net, inputs = built(name)
    expected = net(*inputs).detach().double()
    cast = tuple(tensor.to(dtype) for tensor in inputs)
    low = copy.deepcopy(net).to(dtype)
    out = low(*cast)
    assert out.dtype == dtype
    assert float((out.double() - expected).detach().abs().max()) < ROOM[dtype] * (1 + float(expected.abs().max()))
    assert proved(low, cast), "rounding of weights does not change their sign"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        case
        for name in ("full", "full, monotone, projected", "partial, projected", "convolutional, partial")
        for case in some(product([name], [torch.bfloat16, torch.float16]), 1, f"autocast, {name}")
    ],
    ids=str,
)
def test_training_under_autocast(name: str, dtype: torch.dtype) -> None:
    """With a scaler, whose first steps it skips, and the constraint attached where there is one."""
    torch.manual_seed(1)
    net, inputs = built(name, 16)
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    cx.constrain(net, inputs, wrt=len(inputs) - 1).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20 if dtype == torch.float16 else 2.0**8)
    losses, skipped = list[float](), 0
    for _ in range(25):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = (net(*inputs).float() - 0.5).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        skipped += scaler.get_scale() < before
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert (skipped > 0) == (dtype == torch.float16), "the scaler had something to skip"
    assert all(bool(parameter.isfinite().all()) for parameter in net.parameters())
    assert proved(net.eval(), inputs)


@pytest.mark.parametrize(
    "name", some([name for name in NETWORKS if "projected" not in name and "one step" not in name], 4, "any size")
)
def test_weights_of_any_size(name: str) -> None:
    """By construction means for every value of the parameters, also where softplus rounds to 0 or to its argument."""
    net, inputs = built(name)
    for value in (-1e4, -100.0, 0.0, 60.0):
        wild = copy.deepcopy(net)
        with torch.no_grad():
            for key, parameter in wild.named_parameters():
                if key.endswith("raw") and "quadratic" not in key:
                    parameter.fill_(value)
        assert proved(wild, inputs)
        if value < 1:
            *_, whole = gradients(wild, inputs)
            assert all(bool(gradient.isfinite().all()) for gradient in whole)


# --- compilers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(NETWORKS, 4, "programs"))
def test_exported_programs(name: str) -> None:
    """With any batch size, through a file."""
    net, inputs = built(name)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    more = built(name, 7)[1]
    torch.testing.assert_close(program.module()(*more), net(*more), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_compiled(name: str) -> None:
    """Values and gradients, at two batch sizes, and the certificate of the compiled module."""
    net, inputs = built(name)
    compiled: Any = torch.compile(net)
    for size in (5, 9):
        inputs = built(name, size)[1]
        expected, rows, whole = gradients(net, inputs)
        found, own, parameters = gradients(compiled, inputs)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own, rows, rtol=1e-3, atol=1e-4)
        for a, b in zip(parameters, whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert proved(compiled, inputs)

"""The base networks against their papers: counts and sizes from the layer tables, and a second forward written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet import zoo
from tests.drawing import some

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "elu": lambda x: torch.where(x > 0, x, torch.expm1(x.clamp(max=0))),
    "celu": lambda x: x.clamp(min=0) + torch.expm1(x.clamp(max=0)),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "leaky_relu": lambda x: torch.maximum(x, 0.01 * x),
}

# One small network of every kind: its constructor (given an activation), and the shape of a sample.
Small = tuple[Callable[..., nn.Module], tuple[int, ...]]
SMALL: dict[str, Small] = {
    "mlp": (lambda **k: zoo.MLP(12, 4, (24, 20, 16), **k), (3, 2, 2)),
    "mlp without norm": (lambda **k: zoo.MLP(12, 4, (7, 6), norm=False, **k), (12,)),
    "mlp published": (lambda **k: zoo.mlp_published(12, 4, hidden=(7, 6), **k), (12,)),
    "allconv": (lambda **k: zoo.AllConv(4, first=8, **k), (3, 10, 9)),
    "allconv with norm": (lambda **k: zoo.AllConv(4, norm=True, last_activation=True, **k), (3, 9, 9)),
    "allconv published": (lambda **k: zoo.allconv_published(4, in_channels=1, **k), (1, 9, 9)),
    "densenet": (lambda **k: zoo.DenseNet((2, 1), 3, 4, dropout=0.3, **k), (3, 6, 6)),
    "densenet bc": (lambda **k: zoo.densenet_small(4, dropout=0.2, **k), (3, 8, 8)),
    "densenet published": (
        lambda **k: zoo.DenseNet((2, 2), 5, 4, in_channels=1, transition_channels=5, pooled=2, dropout=0.2, **k),
        (1, 8, 8),
    ),
}
each_small = pytest.mark.parametrize("name", SMALL)
# Every network with one activation, and two of them with every activation.
each_activation = pytest.mark.parametrize(
    ("name", "activation"),
    [
        *((name, "elu") for name in SMALL),
        *((name, activation) for name in ("mlp", "densenet bc") for activation in ACTIVATIONS if activation != "elu"),
    ],
)


def small(name: str, activation: str = "relu") -> tuple[nn.Module, Tensor]:
    """A network whose BatchNorms are no identities, in eval mode, and three samples."""
    build, shape = SMALL[name]
    model = build(activation=activation)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval(), torch.randn(3, *shape)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@cache
def on_meta(build: Callable[..., nn.Module], *arguments: Any, **keywords: Any) -> nn.Module:
    """A network without memory, for counts and sizes; tests leave it as it is."""
    with torch.device("meta"):
        return build(*arguments, **keywords)


# --- parameter counts, by arithmetic of their own --------------------------------------------------------------------


def mlp_count(widths: list[int], norm: bool) -> int:
    linear = sum((n + 1) * m for n, m in pairwise(widths))
    return linear + (2 * sum(widths[1:-1]) if norm else 0)


def allconv_count(classes: int, colours: int, first: int) -> int:
    kernels = [(9, colours, first), (9, first, 96), (9, 96, 96), (9, 96, 192), (9, 192, 192), (9, 192, 192)]
    kernels += [(9, 192, 192), (1, 192, 192), (1, 192, classes)]
    return sum((area * n + 1) * m for area, n, m in kernels)


def densenet_count(
    blocks: list[int],
    k: int,
    classes: int,
    *,
    first: int,
    bottleneck: bool = False,
    theta: float = 1.0,
    fixed: int | None = None,
    pooled: int = 1,
) -> int:
    """The layer table of Huang et al. 2017, added up."""
    total, c = 9 * 3 * first, first
    for number, layers in enumerate(blocks):
        for _ in range(layers):
            total += 2 * c + ((c * 4 * k + 2 * 4 * k + 9 * 4 * k * k) if bottleneck else 9 * c * k)
            c += k
        if number + 1 < len(blocks):
            kept = fixed if fixed is not None else int(theta * c)
            total += 2 * c + c * kept
            c = kept
    return total + 2 * c + (c * pooled * pooled + 1) * classes


def test_count_of_the_mlp() -> None:
    assert mlp_count([3072, 800, 800, 800, 10], norm=False) == 3_748_010  # table 4 of Sivaprasad et al.
    for norm in (False, True):
        for sizes in ([3072, 800, 800, 800, 10], [784, 800, 800, 800, 10], [5, 2], [5, 3, 2]):
            model = on_meta(zoo.MLP, sizes[0], sizes[-1], tuple(sizes[1:-1]), norm=norm)
            assert count(model) == mlp_count(sizes, norm)
    assert count(on_meta(zoo.mlp_published)) == 3_752_810


@pytest.mark.parametrize("classes", [1, 10, 100])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("first", [96, 192])
def test_count_of_allconv(classes: int, colours: int, first: int) -> None:
    plain = allconv_count(classes, colours, first)
    assert count(on_meta(zoo.AllConv, classes, colours, first=first)) == plain
    hidden = first + 2 * 96 + 5 * 192
    assert count(on_meta(zoo.AllConv, classes, colours, norm=True, first=first)) == plain + 2 * hidden
    published = on_meta(zoo.allconv_published, classes, in_channels=colours, first=first)
    assert count(published) == plain + 2 * (96 + 3 * 192)


def test_allconv_has_the_rounded_count_of_its_paper() -> None:
    assert allconv_count(10, 3, 96) == 1_369_738
    assert round(count(on_meta(zoo.AllConv)) / 1e6, 1) == 1.4  # Springenberg et al., table 3: "≈ 1.4M"
    assert round(count(on_meta(zoo.AllConv, first=192)) / 1e6, 1) != 1.4  # the convex network's is another


def test_count_of_the_named_densenets() -> None:
    forty = densenet_count([12, 12, 12], 12, 10, first=16)
    compressed = densenet_count([16, 16, 16], 12, 10, first=24, bottleneck=True, theta=0.5)
    assert (round(forty / 1e6, 1), round(compressed / 1e6, 1)) == (1.0, 0.8)  # Huang et al., table 2
    assert round(densenet_count([16, 16, 16], 12, 10, first=24, bottleneck=True) / 1e6, 1) != 0.8
    assert round(densenet_count([11, 11, 11], 12, 10, first=16) / 1e6, 1) != 1.0
    assert count(on_meta(zoo.densenet40)) == forty
    assert count(on_meta(zoo.densenet_bc100)) == compressed
    published = densenet_count([6, 6, 6, 6], 40, 10, first=80, fixed=40, pooled=2)
    assert count(on_meta(zoo.densenet_published)) == published
    assert count(zoo.densenet_small()) == densenet_count([2, 2], 4, 10, first=8, bottleneck=True, theta=0.5)


@given(
    blocks=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    growth=st.integers(1, 9),
    classes=st.integers(1, 20),
    first=st.integers(1, 9),
    bottleneck=st.booleans(),
    theta=st.sampled_from([1.0, 0.7, 0.5]),
    fixed=st.none() | st.integers(1, 9),
    pooled=st.integers(1, 3),
)
@settings(max_examples=40)
def test_count_of_any_densenet(
    blocks: list[int],
    growth: int,
    classes: int,
    first: int,
    bottleneck: bool,
    theta: float,
    fixed: int | None,
    pooled: int,
) -> None:
    model = on_meta(
        zoo.DenseNet,
        tuple(blocks),
        growth,
        classes,
        first=first,
        bottleneck=bottleneck,
        compression=theta,
        transition_channels=fixed,
        pooled=pooled,
    )
    expected = densenet_count(
        blocks, growth, classes, first=first, bottleneck=bottleneck, theta=theta, fixed=fixed, pooled=pooled
    )
    assert count(model) == expected


# --- layer tables ----------------------------------------------------------------------------------------------------


def observed(model: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Channels and side (or features) that each module gives, by path, in a forward of the model."""
    seen: dict[str, tuple[int, ...]] = {}

    def record(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[path] = tuple(output.shape[1:])

        return hook

    hooks = [module.register_forward_hook(record(path)) for path, module in model.named_modules() if path]
    model(images)
    for hook in hooks:
        hook.remove()
    return seen


def test_layer_table_of_allconv() -> None:
    """Springenberg et al. 2015, tables 1 and 2."""
    seen = observed(on_meta(zoo.AllConv), torch.zeros(2, 3, 32, 32, device="meta"))
    sides = [(96, 32), (96, 32), (96, 16), (192, 16), (192, 16), (192, 8), (192, 6), (192, 6), (10, 6)]
    assert [seen[f"layers.conv{i}"] for i in range(1, 10)] == [(c, s, s) for c, s in sides]
    assert seen["layers.average"] == (10, 1, 1)
    dropped = {path: module.p for path, module in zoo.AllConv().named_modules() if isinstance(module, nn.Dropout)}
    assert dropped == {"layers.dropout1": 0.2, "layers.dropout4": 0.5, "layers.dropout7": 0.5}


def test_layer_table_of_the_published_allconv() -> None:
    model = on_meta(zoo.allconv_published, first=192)
    seen = observed(model, torch.zeros(2, 3, 32, 32, device="meta"))
    sides = [(192, 32), (96, 32), (96, 16), (192, 16), (192, 16), (192, 8), (192, 8), (192, 8), (10, 4)]
    assert [seen[f"layers.conv{i}"] for i in range(1, 10)] == [(c, s, s) for c, s in sides]
    order = [path.removeprefix("layers.") for path in seen if "norm" in path or "activation" in path]
    after = {2, 4, 6, 8}
    expected = [[f"activation{i}", *([f"norm{i}"] if i in after else [])] for i in range(1, 10)]
    assert order == [name for names in expected for name in names]


@pytest.mark.parametrize(
    ("build", "channels"),
    [
        (zoo.densenet40, [16, 160, 160, 304, 304, 448]),
        (zoo.densenet_bc100, [24, 216, 108, 300, 150, 342]),
        (zoo.densenet_published, [80, 320, 40, 280, 40, 280, 40, 280]),
    ],
)
def test_layer_table_of_the_densenets(build: Callable[[], nn.Module], channels: list[int]) -> None:
    """Huang et al. 2017, section 3: channels into and out of each block; sides 32, 16, 8 (and 4)."""
    model = on_meta(build)
    seen = observed(model, torch.zeros(2, 3, 32, 32, device="meta"))
    blocks = [path for path in seen if path.startswith("features.block") and path.count(".") == 1]
    flow = [seen["features.first"]]
    for number, block in enumerate(blocks, 1):
        flow += [seen[block], *([seen[f"features.transition{number}"]] if number < len(blocks) else [])]
    sides = [32, 32, 16, 16, 8, 8, 4, 4]
    assert flow == [(c, s, s) for c, s in zip(channels, sides, strict=False)]
    assert all(shape[1:] == (32, 32) for path, shape in seen.items() if "block1" in path)


# --- a second forward, written out from the papers -------------------------------------------------------------------

Reader = Callable[[str], Tensor]


def batch_norm(x: Tensor, get: Reader, path: str, training: bool, eps: float) -> Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    if training:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean, variance = x.mean(axes), x.var(axes, correction=0)
    else:
        mean, variance = get(f"{path}.running_mean"), get(f"{path}.running_var")
    scaled = (x - mean.view(shape)) / (variance.view(shape) + eps).sqrt()
    return scaled * get(f"{path}.weight").view(shape) + get(f"{path}.bias").view(shape)


def reference(name: str, activation: str, state: dict[str, Tensor], x: Tensor, training: bool, swap: bool) -> Tensor:
    """The networks of SMALL again; `swap` exchanges BatchNorm and activation, which must be noticed."""
    act, get = ACTIVATIONS[activation], state.__getitem__
    eps = 1e-3 if name in ("mlp published", "allconv published") else 1e-5

    def norm(z: Tensor, path: str) -> Tensor:
        return batch_norm(z, get, path, training, eps)

    def norm_act(z: Tensor, path: str) -> Tensor:
        return norm(act(z), path) if swap else act(norm(z, path))

    def act_norm(z: Tensor, path: str) -> Tensor:
        return act(norm(z, path)) if swap else norm(act(z), path)

    if name.startswith("mlp"):
        z = x.reshape(len(x), -1)
        for i in range(1, 4 if name == "mlp" else 3):
            z = z @ get(f"layers.linear{i}.weight").T + get(f"layers.linear{i}.bias")
            z = act(z) if name == "mlp without norm" else norm_act(z, f"layers.norm{i}")
        return z @ get("layers.head.weight").T + get("layers.head.bias")

    if name.startswith("allconv"):
        published = name == "allconv published"
        z = x if published else F.dropout(x, 0.2, training)
        for i in range(1, 10):
            if i in (4, 7):
                z = F.dropout(z, 0.5, training)
            padding = 1 if i <= 6 or (i == 7 and published) else 0
            stride = 2 if i in (3, 6) or (i == 9 and published) else 1
            z = F.conv2d(z, get(f"layers.conv{i}.weight"), get(f"layers.conv{i}.bias"), stride, padding)
            if published:
                z = act_norm(z, f"layers.norm{i}") if i in (2, 4, 6, 8) else act(z)
            elif name == "allconv with norm":
                z = norm_act(z, f"layers.norm{i}") if i < 9 else act(z)
            else:
                z = act(z) if i < 9 else z
        return z.mean((2, 3))

    rate = 0.3 if name == "densenet" else 0.2
    z = F.conv2d(x, get("features.first.weight"), padding=1)
    blocks = (2, 1) if name == "densenet" else (2, 2)
    for b, layers in enumerate(blocks, 1):
        for layer in range(1, layers + 1):
            path = f"features.block{b}.layer{layer}.new"
            new = z
            if name == "densenet bc":
                new = F.conv2d(norm_act(new, f"{path}.norm1"), get(f"{path}.conv1.weight"))
                new = F.dropout(new, rate, training)
            last = 2 if name == "densenet bc" else 1
            new = F.conv2d(norm_act(new, f"{path}.norm{last}"), get(f"{path}.conv{last}.weight"), padding=1)
            z = torch.cat([z, F.dropout(new, rate, training)], 1)
        if b < len(blocks):
            z = F.conv2d(norm_act(z, f"features.transition{b}.norm"), get(f"features.transition{b}.conv.weight"))
            z = F.avg_pool2d(F.dropout(z, rate, training), 2)
    z = norm_act(z, "features.norm")
    z = F.avg_pool2d(z, 2) if name == "densenet published" else z.mean((2, 3))
    return z.flatten(1) @ get("head.weight").T + get("head.bias")


@each_activation
@pytest.mark.parametrize("training", [False, True])
def test_forward_is_the_one_of_the_papers(name: str, activation: str, training: bool, seed: int) -> None:
    model, x = small(name, activation)
    model, x = model.double().train(training), x.double()
    state = {path: tensor.clone() for path, tensor in model.state_dict().items()}
    given_x = x.clone()
    outputs: list[Tensor] = []
    for run in (
        lambda: model(x),
        lambda: reference(name, activation, state, x, training, swap=False),
        lambda: reference(name, activation, state, x, training, swap=True),
    ):
        torch.manual_seed(seed)  # the same dropout masks
        outputs.append(run().detach())
    assert torch.equal(x, given_x)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)
    if any("norm" in path for path in state):
        assert not torch.allclose(outputs[0], outputs[2], rtol=1e-3, atol=1e-3)


# --- what conversion relies on ---------------------------------------------------------------------------------------


def leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((path, module) for path, module in model.named_modules() if not list(module.children()))


@each_small
def test_each_module_is_used_once_and_in_order(name: str) -> None:
    model, x = small(name)
    calls: list[str] = []
    for path, module in leaves(model):
        assert not getattr(module, "inplace", False)
        module.register_forward_hook(lambda _module, _inputs, _output, path=path: calls.append(path))
    model(x)
    assert calls == [path for path, _ in leaves(model)]
    assert len(calls) == len(list(model.named_modules(remove_duplicate=False))) - sum(
        bool(list(module.children())) for module in model.modules()
    )


@each_activation
def test_gradient_reaches_every_parameter(name: str, activation: str) -> None:
    """In eval mode: in training BatchNorm takes a bias before it out again."""
    model, x = small(name, activation)
    F.cross_entropy(model(torch.randn(24, *x.shape[1:])), torch.arange(24) % 4).backward()
    dead = [path for path, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


# --- convexity -------------------------------------------------------------------------------------------------------

FIRST_FINDING = {
    "mlp": "layers.linear2",
    "allconv": "layers.conv2",
    "allconv published": "layers.conv2",
    "allconv with norm": "layers.conv2",
    "densenet": "features.block1.layer1.new.conv1",
    "densenet bc": "features.block1.layer1.new.conv1",
}


def free(name: str) -> set[str]:
    """The layers before the first activation, whose weights may have any sign."""
    if name.startswith("densenet"):
        return {"features.first", "features.block1.layer1.new.norm1"}
    first = {"layers.linear1", "layers.conv1"}
    return first if name == "allconv published" else first | {"layers.norm1"}


def make_non_negative(model: nn.Module, but: set[str]) -> list[str]:
    """By hand: |w| for every weight and γ after the first activation. Returns their paths."""
    paths: list[str] = []
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)) and path not in but:
                module.weight.abs_()
                paths.append(path)
    return paths


def chord_violation(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """How far the middle of a chord lies below the function, in float64; positive only if it is not convex."""
    model, x, y = model.double(), x.double(), y.double()
    with torch.no_grad():
        return (model((x + y) / 2) - (model(x) + model(y)) / 2).max().item()


@pytest.mark.parametrize("name", FIRST_FINDING)
def test_an_ordinary_network_is_not_certified(name: str) -> None:
    model, x = small(name, "elu")
    certificate = cx.certify(model, x)
    assert not certificate.convex
    assert certificate.findings[0].path == FIRST_FINDING[name]
    assert "negative" in certificate.findings[0].reason


@pytest.mark.parametrize("name", some(SMALL, 4, "signs by hand"))
def test_non_negative_by_hand_is_certified_and_one_flipped_sign_is_not(name: str) -> None:
    model, x = small(name, "elu")
    constrained = make_non_negative(model, but=free(name))
    with torch.no_grad():  # what comes before the first activation is affine, whatever its signs
        for path in free(name) & {path for path, _ in model.named_modules()}:
            weight = model.get_parameter(f"{path}.weight")
            weight[0] = -weight[0].abs() - 0.1
    assert cx.certify(model, x).require().curvature == "convex"
    assert chord_violation(model, torch.randn(16, *x.shape[1:]), torch.randn(16, *x.shape[1:])) <= 1e-9

    norms = [path for path in constrained if "norm" in path]
    flipped = (norms or constrained)[len(norms or constrained) // 2]
    with torch.no_grad():
        model.get_parameter(f"{flipped}.weight")[0] = -1e-3
    certificate = cx.certify(model, x.double())
    assert not certificate.convex
    assert certificate.findings[0].path == flipped
    assert "-0.001" in certificate.findings[0].reason


@pytest.mark.parametrize(
    ("name", "activation"), [*(("mlp without norm", a) for a in ACTIVATIONS), ("densenet", "softplus")]
)
def test_every_activation_can_be_certified(name: str, activation: str) -> None:
    model, x = small(name, activation)
    make_non_negative(model, but=free(name))
    assert cx.certify(model, x).convex
    # The same network with SiLU, which is neither convex nor monotone, as its second activation.
    path = [path for path, module in leaves(model) if "activation" in path][1]
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.SiLU())
    certificate = cx.certify(model, x)
    assert not certificate.convex
    assert certificate.findings[0].path == path


def test_chords_notice_a_negative_scale() -> None:
    """The oracle of the tests above, on the network they flip a sign in, with a scale large enough to see."""
    model, x = small("mlp", "elu")
    make_non_negative(model, but=free("mlp"))
    with torch.no_grad():
        model.get_parameter("layers.norm3.weight").neg_()
    assert chord_violation(model, torch.randn(16, *x.shape[1:]), torch.randn(16, *x.shape[1:])) > 1e-3


# --- initial values --------------------------------------------------------------------------------------------------


def test_initial_values_of_densenet() -> None:
    """He et al. 2015 with fan-out: √(2 / (k² c_out)); fan-in would be far off, in a network that concatenates."""
    model = zoo.densenet_bc100()
    for path in ("features.block3.layer16.new.conv1", "features.block2.layer3.new.conv2", "features.transition1.conv"):
        weight = model.get_parameter(f"{path}.weight")
        out, into, height, width = weight.shape
        assert weight.std().item() == pytest.approx((2 / (height * width * out)) ** 0.5, rel=0.1)
        assert weight.std().item() != pytest.approx((2 / (height * width * into)) ** 0.5, rel=0.1)
        assert weight.mean().abs() < 4 * weight.std() / weight.numel() ** 0.5
    assert not model.head.bias.any()


def test_an_activation_of_the_logits_starts_out_dead() -> None:
    """Why AllConv leaves out the last ReLU of the paper's table."""
    images = torch.randn(8, 3, 16, 16)

    def dead(model: nn.Module) -> int:
        with torch.no_grad():
            return int((model(images) == 0).all(0).sum())

    assert dead(zoo.AllConv(100, dropout=False, last_activation=True)) > 20
    assert dead(zoo.AllConv(100, dropout=False)) == 0
    assert dead(zoo.allconv_published(100, dropout=False)) == 0  # in training mode: BatchNorm spreads the images


@pytest.mark.parametrize("build", [zoo.mlp_published, zoo.allconv_published, zoo.densenet_published])
def test_initial_values_of_the_published_code(build: Callable[[], nn.Module]) -> None:
    norms = 0
    for path, module in build().named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            area = module.weight[0, 0].numel()
            bound = (6 / (area * sum(module.weight.shape[:2]))) ** 0.5
            assert 0.98 * bound < module.weight.abs().max().item() <= bound, path
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            norms += 1
            assert (module.eps, module.momentum) == (1e-3, 0.01)
    assert norms in (3, 4, 28)
    default = zoo.AllConv().layers.conv5.weight  # PyTorch's bound, 1/√fan-in, is another
    assert default.abs().max().item() == pytest.approx((9 * 192) ** -0.5, rel=0.01)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: zoo.MLP(0, 10), "in_features must be at least 1, not 0"),
        (lambda: zoo.MLP(12, -1), "classes must be at least 1, not -1"),
        (lambda: zoo.MLP(12, 4, (8, 0)), r"hidden\[1\] must be at least 1, not 0"),
        (lambda: zoo.MLP(12, 4, activation="gelu"), "unknown activation 'gelu'; use one of relu, elu, celu"),
        (lambda: zoo.AllConv(0), "classes must be at least 1"),
        (lambda: zoo.AllConv(first=0), "first must be at least 1"),
        (lambda: zoo.AllConv(activation="ReLU"), "unknown activation 'ReLU'"),
        (lambda: zoo.AllConv(table="keras"), "unknown table 'keras'; the layer tables of AllConv are paper, published"),
        (lambda: zoo.densenet40(0), "classes must be at least 1"),
        (lambda: zoo.densenet40(activation="silu"), "unknown activation 'silu'"),
        (lambda: zoo.DenseNet((), 12), "blocks is empty"),
        (lambda: zoo.DenseNet((2, 0), 12), r"blocks\[1\] must be at least 1, not 0"),
        (lambda: zoo.DenseNet((2,), 12, compression=0.0), r"compression must be in \(0, 1\], not 0.0"),
        (lambda: zoo.DenseNet((1, 1), 1, first=1, compression=0.4), "compression 0.4 keeps none of 2 channels"),
        (lambda: zoo.DenseNet((2,), 12, dropout=1.0), r"dropout must be in \[0, 1\), not 1.0"),
    ],
)
def test_arguments_that_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("classes", [10.0, "10", True, None])
@pytest.mark.parametrize("build", [lambda c: zoo.MLP(12, c), zoo.AllConv, zoo.densenet_small])
def test_classes_that_are_no_integer(build: Callable[[Any], nn.Module], classes: object) -> None:
    with pytest.raises(TypeError, match="classes must be an integer, not"):
        build(classes)


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (
            lambda: zoo.MLP(12, 2, (3,)),
            (2, 13),
            "samples of 12 numbers, not shape .2, 13.: build it with in_features=13",
        ),
        (lambda: zoo.MLP(12, 2, (3,)), (12,), "put the batch first"),
        (zoo.AllConv, (2, 3, 8, 32), "AllConv needs images of at least 9 x 9 pixels, not 8 x 32"),
        (zoo.AllConv, (2, 1, 32, 32), "images of 3 channels, these have 1 .* build it with in_channels=1"),
        (zoo.AllConv, (3, 32, 32), r"a batch of images \(B, 3, height, width\), not shape"),
        (zoo.densenet_small, (2, 3, 1, 8), "DenseNet needs images of at least 2 x 2 pixels"),
        (zoo.densenet_small, (2, 1, 8, 8), "build it with in_channels=1"),
    ],
)
def test_images_that_are_refused(build: Callable[[], nn.Module], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("build", "least"),
    [
        (lambda: zoo.AllConv(2), 9),
        (lambda: zoo.allconv_published(2), 1),
        (zoo.densenet_small, 2),
        (lambda: zoo.DenseNet((1, 1, 1), 2), 4),
    ],
)
def test_the_least_image_is_the_least(build: Callable[[], Any], least: int) -> None:
    """It runs; with the check taken away, one pixel less fails inside a layer."""
    model = build().eval()
    assert model(torch.randn(1, 3, least, least)).isfinite().all()
    model.least = 0
    with pytest.raises(RuntimeError, match=r"size|small"):
        model(torch.randn(1, 3, least - 1, least - 1))


def test_the_least_image_of_an_average_over_patches() -> None:
    """Below it, the average at the end would have to repeat pixels."""
    model = zoo.DenseNet((1, 1, 1, 1), 2, pooled=2).eval()
    assert observed(model, torch.randn(1, 3, 16, 16))["features.activation"][1] == 2
    with pytest.raises(ValueError, match="at least 16 x 16 pixels"):
        model(torch.randn(1, 3, 15, 15))

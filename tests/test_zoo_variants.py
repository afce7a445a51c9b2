"""The newer networks and their variants: against other implementations, and what their certificates must say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import convexnet as cx
from convexnet import zoo
from convexnet.zoo.cyclemlp import ConstantBranches, SoftmaxBranches

MIXER: dict[str, Any] = {"image": 6, "patch": 3, "width": 8, "layers": 2, "token_hidden": 5, "channel_hidden": 6}


def mixer(variant: Any = "ordinary", **options: Any) -> nn.Module:
    return zoo.mixer(4, variant, **MIXER, **options)


CYCLE: dict[str, Any] = {"widths": (6, 7), "depths": (1, 1), "ratio": 2}


def cyclemlp(variant: Any = "ordinary", **options: Any) -> nn.Module:
    return zoo.cyclemlp_b1(4, variant, image=12, **CYCLE, **options)


EFFICIENT: dict[str, Any] = {"width": 0.25, "depth": 0.3}


def efficientnet(variant: Any = "ordinary", **options: Any) -> nn.Module:
    return zoo.efficientnet_b0(4, variant, image=24, **EFFICIENT, **options)


Build = tuple[Callable[..., nn.Module], tuple[int, ...]]
CERTIFIED: dict[str, Build] = {
    "mixer": (lambda **k: mixer("certified", **k), (3, 6, 6)),
    "mixer, affine": (lambda **k: mixer("certified", norm="affine", **k), (3, 6, 6)),
    "cyclemlp": (lambda **k: cyclemlp("certified", **k), (3, 12, 12)),
    "efficientnet": (lambda **k: efficientnet("certified", **k), (3, 24, 24)),
    "efficientnet, no gates": (lambda **k: efficientnet("certified", gate="removed", **k), (3, 24, 24)),
}
REPORT: dict[str, tuple[Build, str, list[str]]] = {
    "mixer": (
        (lambda **k: mixer("report", **k), (3, 6, 6)),
        "blocks.0.norm1",
        ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"],
    ),
    "cyclemlp": (
        (lambda **k: cyclemlp("report", **k), (3, 12, 12)),
        "stages.0.block1.norm1",
        [
            *(f"stages.{i}.block1.{part}" for i in (0, 1) for part in ("norm1", "mixing.reweight", "norm2")),
            "norm",
        ],
    ),
}
"""Each with the module that its certificate names, and all that `convexify` must exchange for convexity."""


def take_parameters(target: nn.Module, source: nn.Module) -> None:
    """Give a network the parameters and buffers of another implementation, in their order."""
    values = list(source.state_dict().values())
    names = list(target.state_dict())
    assert [v.shape for v in target.state_dict().values()] == [v.shape for v in values]
    target.load_state_dict(dict(zip(names, values, strict=True)))


# --- other implementations -------------------------------------------------------------------------------------------


def test_the_mixer_is_the_one_of_timm() -> None:
    timm = pytest.importorskip("timm.models.mlp_mixer")
    other = timm.MlpMixer(num_classes=4, img_size=6, patch_size=3, num_blocks=2, embed_dim=8, mlp_ratio=(0.625, 0.75))
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    own = mixer()
    take_parameters(own, other)
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(own.double().eval()(x), other.double().eval()(x), rtol=1e-10, atol=1e-10)


def test_count_of_the_mixer() -> None:
    """Patches, four blocks of two norms and two MLPs, a norm and a head; the report doubles one token MLP."""
    block = 2 * 256 + (65 * 64 + 65 * 64) + (129 * 128 + 129 * 128)
    rest = (3 * 81 + 1) * 128 + 256 + 129 * 10
    assert sum(p.numel() for p in zoo.mixer().parameters()) == rest + 4 * block
    report = sum(p.numel() for p in zoo.mixer(variant="report").parameters())
    assert report == rest + 4 * block + 64 * 64 + 64 + 64 * 64
    assert zoo.mixer()(torch.zeros(1, 3, 72, 72)).shape == (1, 10)


@pytest.mark.parametrize("axis", ["width", "height"])
def test_cycle_fc_is_its_definition(axis: Any, seed: int) -> None:
    """Written out: the sum over channels, each read at its own offset, 0, 1, -1, 0, ...; nothing beyond the edge."""
    batch, channels, height, width = 2, 5, 3, 4
    layer = zoo.CycleFC(channels, axis).double()
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    assert layer.mix.bias is not None
    expected = torch.zeros_like(x)
    for o in range(channels):
        for i in range(height):
            for j in range(width):
                expected[:, o, i, j] = layer.mix.bias[o].detach()
                for c in range(channels):
                    shift = (0, 1, -1)[c % 3]
                    a, b = (i, j + shift) if axis == "width" else (i + shift, j)
                    if 0 <= a < height and 0 <= b < width:
                        expected[:, o, i, j] += layer.mix.weight[o, c, 0, 0].detach() * x[:, c, a, b]
    torch.testing.assert_close(layer(x).detach(), expected)


def deformed(x: Tensor, weight: Tensor, bias: Tensor, kernel: tuple[int, int]) -> Tensor:
    """The authors' way: a deformable convolution of one place, with the offsets of their code."""
    from torchvision.ops import deform_conv2d

    channels, area = x.shape[1], kernel[0] * kernel[1]
    offset = torch.zeros(1, 2 * channels, 1, 1, dtype=x.dtype)
    for i in range(channels):
        offset[0, 2 * i + (kernel[0] == 1), 0, 0] = (i + area // 2) % area - area // 2
    return deform_conv2d(x, offset.expand(len(x), -1, *x.shape[2:]), weight, bias)


def test_cyclemlp_is_the_one_of_its_paper(seed: int) -> None:
    """The whole forward again, from the parameters alone."""
    model = cyclemlp().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5)
    get = model.get_parameter
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)

    def linear(z: Tensor, path: str, bias: bool = True) -> Tensor:
        return F.linear(z, get(f"{path}.weight"), get(f"{path}.bias") if bias else None)

    def norm(z: Tensor, path: str) -> Tensor:
        centred = z - z.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * get(f"{path}.weight") + get(f"{path}.bias")

    z = F.conv2d(x, get("patches.weight"), get("patches.bias"), stride=4, padding=2)
    for number in (0, 1):
        if number:
            path = "stages.1.halving.proj"
            z = F.conv2d(z, get(f"{path}.weight"), get(f"{path}.bias"), stride=2, padding=1)
        path = f"stages.{number}.block1"
        z = z.permute(0, 2, 3, 1)
        y = norm(z, f"{path}.norm1")
        branches = [
            deformed(y.permute(0, 3, 1, 2), get(f"{p}.weight"), get(f"{p}.bias"), kernel).permute(0, 2, 3, 1)
            for p, kernel in ((f"{path}.mixing.sfc_h.mix", (1, 3)), (f"{path}.mixing.sfc_w.mix", (3, 1)))
        ]
        branches.append(linear(y, f"{path}.mixing.mlp_c", bias=False))
        pooled = sum(branches, torch.zeros(())).mean((1, 2))
        scores = linear(F.gelu(linear(pooled, f"{path}.mixing.reweight.fc1")), f"{path}.mixing.reweight.fc2")
        weights = scores.reshape(len(x), -1, 3).softmax(2)
        mixed = sum((b * weights[:, None, None, :, k] for k, b in enumerate(branches)), torch.zeros(()))
        z = z + linear(mixed, f"{path}.mixing.proj")
        hidden = F.gelu(linear(norm(z, f"{path}.norm2"), f"{path}.channel.linear1"))
        z = (z + linear(hidden, f"{path}.channel.linear2")).permute(0, 3, 1, 2)
    expected = linear(norm(z.permute(0, 2, 3, 1), "norm").mean((1, 2)), "head")
    torch.testing.assert_close(model(x), expected)


def test_count_of_cyclemlp_b1() -> None:
    """Chen et al. 2022, table 1: 15.2 million for a thousand classes."""
    with torch.device("meta"):
        model = zoo.cyclemlp_b1(1000)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 15.2
    assert model(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 1000)


def test_efficientnet_b0_is_the_one_of_torchvision(seed: int) -> None:
    models = pytest.importorskip("torchvision.models")
    other = models.efficientnet_b0(weights=None, num_classes=4)
    for path, module in other.named_modules():
        if isinstance(module, nn.BatchNorm2d):  # so that nothing is an identity
            for name in ("weight", "bias", "running_mean", "running_var"):
                nn.init.uniform_(getattr(module, name), 0.5, 1.5)
        assert "StochasticDepth" not in type(module).__name__ or module.mode == "row", path
    own = zoo.efficientnet_b0(4)
    take_parameters(own, other)
    x = torch.randn(2, 3, 40, 33)
    torch.testing.assert_close(own.eval()(x), other.eval()(x))
    shares = [module.share for module in own.modules() if isinstance(module, zoo.DropPath)]
    assert shares == pytest.approx([m.p for m in other.modules() if "StochasticDepth" in type(m).__name__])


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["sum", "removed"])
def test_efficientnet_b0_at_its_own_size_is_certified(gate: Any) -> None:
    model = zoo.efficientnet_b0(1000, "certified", gate=gate)
    assert cx.certify(model, torch.zeros(2, 3, 64, 64)).require().curvature == "convex"


@pytest.mark.slow
def test_mixer_and_cyclemlp_at_their_own_size_are_certified() -> None:
    assert cx.certify(zoo.mixer(10, "certified"), torch.zeros(2, 3, 72, 72)).require().curvature == "convex"
    assert cx.certify(zoo.cyclemlp_b1(100, "certified"), torch.zeros(2, 3, 32, 32)).require().curvature == "convex"


def test_an_ordinary_efficientnet_is_refused_for_its_gates() -> None:
    model, x = efficientnet(), torch.zeros(2, 3, 24, 24)
    assert not cx.certify(model, x).convex
    with pytest.raises(cx.NotCertified, match=r"PooledSum\.like") as caught:
        cx.convexify(model, x)
    assert "branch.gate" in str(caught.value)


def test_drop_path_keeps_the_mean_and_drops_whole_samples(seed: int) -> None:
    dropped = zoo.DropPath(0.25)(torch.ones(4000, 2, 3))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert bool((dropped == dropped[:, :1, :1]).all())
    assert dropped[:, 0, 0].mean().item() == pytest.approx(1.0, abs=0.06)
    shares = [m.share for m in mixer(drop_path=0.5).modules() if isinstance(m, zoo.DropPath)]
    assert shares == [0.0, 0.0, 0.5, 0.5]


# --- certified -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_at_first_and_after_steps(name: str, seed: int) -> None:
    build, shape = CERTIFIED[name]
    model, x = build(method="clip"), torch.randn(8, *shape)
    assert cx.certify(model, x).require().curvature == "convex"
    assert model(x).isfinite().all()
    cone = cx.constrain(model, x)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    cone.attach(optimiser)
    before = [p.clone() for p in cone.tensors()]
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(x), torch.arange(8) % 4).backward()
        for parameter in model.parameters():
            parameter.grad = torch.sign(torch.randn_like(parameter))
        optimiser.step()
    assert all(not torch.equal(p, q) for p, q in zip(before, cone.tensors(), strict=True))
    assert cx.certify(model, x).convex

    # One weight of the last constrained parameter with the other sign, and the certificate is gone.
    with torch.no_grad():
        cone.tensors()[-2].view(-1)[0] = -0.1
    certificate = cx.certify(model, x)
    assert not certificate.convex
    assert "negative" in certificate.findings[0].reason


@pytest.mark.parametrize("name", CERTIFIED)
def test_chords_of_the_certified(name: str, seed: int) -> None:
    build, shape = CERTIFIED[name]
    model = build().eval().double()
    x, y = torch.randn(2, 64, *shape, dtype=torch.float64)
    with torch.no_grad():
        over = model((x + y) / 2) - (model(x) + model(y)) / 2
    assert over.max().item() < 1e-9
    assert over.min().item() < -1e-4  # it is not affine


# --- the report's ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORT)
def test_the_certificate_of_a_report_names_what_is_not_convex(name: str, seed: int) -> None:
    (build, shape), first, places = REPORT[name]
    model, x = build(), torch.randn(2, *shape)
    cone = zoo.report_constraint(model)
    cone.project()
    assert cone.violation() == 0.0
    certificate = cx.certify(model, x)
    assert not certificate.convex
    assert certificate.findings[0].path == first
    with pytest.raises(cx.NotCertified, match=first.replace(".", r"\.")):
        cx.constrain(model, x)
    with pytest.warns(UserWarning, match="accuracy is not preserved"):
        converted = cx.convexify(model, x, replace=replacements(name))
    assert [change.path for change in cx.changes(converted)] == places
    assert cx.certify(converted, x).convex


def replacements(name: str) -> dict[Any, Any]:
    return {SoftmaxBranches: ConstantBranches.like} if name == "cyclemlp" else {}


@pytest.mark.parametrize("name", REPORT)
def test_a_chord_contradicts_the_report(name: str) -> None:
    """Not only without a proof: it is not convex, with every weight as its constraint leaves it."""
    (build, shape), _, _ = REPORT[name]
    model = build()
    zoo.report_constraint(model).project()
    assert cx.falsify(model, torch.randn(2, *shape), budget=4000) is not None


def test_the_constraint_of_the_report_is_by_names() -> None:
    model = mixer("report")
    names = zoo.report_constraint(model).parameters
    weights = [name for name, _ in model.named_parameters() if "weight" in name]
    assert set(weights) - set(names) == {"patches.weight", "blocks.0.norm1.weight"}
    assert not set(names) - set(weights)
    wrapped = nn.Sequential(nn.Upsample(size=6, mode="bilinear"), model)
    assert zoo.report_constraint(wrapped).parameters == tuple(f"1.{name}" for name in names)
    weight = model.get_parameter("blocks.0.token.linear1.weight")
    old = weight.detach().clone()
    zoo.report_constraint(wrapped).project()
    torch.testing.assert_close(weight.detach(), torch.where(old < 0, (old - 5).exp(), old))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mixer("certfied"), "unknown variant 'certfied'.*did you mean 'certified'"),
        (lambda: zoo.mixer(10, image=70), "patches of 9 pixels do not tile images of 70"),
        (lambda: zoo.mixer(0), "classes must be at least 1"),
        (lambda: zoo.mixer(drop_path=1.0), r"drop_path must be in \[0, 1\), not 1.0"),
        (lambda: zoo.mixer(variant="report", drop_path=0.1), "has no drop-path"),
        (lambda: mixer()(torch.zeros(1, 3, 8, 8)), "built for images of 6 x 6 pixels, not 8 x 8: resize them"),
        (lambda: mixer()(torch.zeros(1, 3, 4, 8)), "needs images of at least 6 x 6 pixels"),
        (lambda: zoo.CycleMLP(widths=(8, 8), depths=(1,)), "name the stages alike, not 2 and 1"),
        (lambda: cyclemlp()(torch.zeros(1, 3, 2, 8)), "needs images of at least 3 x 3 pixels"),
        (lambda: efficientnet("report"), "unknown variant 'report'.*there are ordinary, certified"),
        (lambda: efficientnet("certified", gate="pool"), "unknown gate 'pool'.*one of sum, removed"),
        (lambda: zoo.EfficientNet(width=0.0), "width must be a positive number"),
        (lambda: zoo.report_constraint(mixer()), "not of the variant 'report'"),
    ],
)
def test_arguments_that_are_refused(build: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

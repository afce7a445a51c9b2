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

MIXER: dict[str, Any] = {"image": 6, "patch": 3, "width": 8, "layers": 2, "token_hidden": 5, "channel_hidden": 6}


def mixer(variant: Any = "ordinary", **options: Any) -> nn.Module:
    return zoo.mixer(4, variant, **MIXER, **options)


Build = tuple[Callable[..., nn.Module], tuple[int, ...]]
CERTIFIED: dict[str, Build] = {
    "mixer": (lambda **k: mixer("certified", **k), (3, 6, 6)),
    "mixer, affine": (lambda **k: mixer("certified", norm="affine", **k), (3, 6, 6)),
}
REPORT: dict[str, tuple[Build, str, list[str]]] = {
    "mixer": (
        (lambda **k: mixer("report", **k), (3, 6, 6)),
        "blocks.0.norm1",
        ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"],
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
    return {}


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
        (lambda: zoo.report_constraint(mixer()), "not of the variant 'report'"),
    ],
)
def test_arguments_that_are_refused(build: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

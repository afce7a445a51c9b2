"""Networks as torchvision ships them: certified with non-negative weights, refused with one scale flipped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import convexnet as cx

models = pytest.importorskip("torchvision.models")

IMAGE = torch.zeros(2, 3, 64, 64)


def nonneg(model: nn.Module) -> nn.Module:
    """Non-negative weights after the first layer, and non-negative BatchNorm scales."""
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for module in [*weighted[1:], *(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))]:
            module.weight.abs_()
    return model


def flip_one_scale(model: nn.Module) -> None:
    """One BatchNorm scale, in the middle of the network, becomes negative; its shift keeps the unit alive, since a relu
    of what is never positive is constant, and convex after all."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        norms[len(norms) // 2].weight[0] = -1e-3
        norms[len(norms) // 2].bias[0] = 1.0


slow = pytest.mark.slow
CONVEX = ["resnet18", *(pytest.param(n, marks=slow) for n in ("densenet121", "vgg11_bn", "regnet_x_400mf"))]
BROKEN = [
    ("mnasnet0_5", "aten.conv2d"),
    *(
        pytest.param(name, operator, marks=slow)
        for name, operator in (
            ("efficientnet_b0", "aten.silu"),
            ("convnext_tiny", "aten.layer_norm"),
            ("mobilenet_v2", "aten.hardtanh"),
            ("swin_t", "aten.layer_norm"),
        )
    ),
]


@pytest.mark.parametrize("name", CONVEX)
def test_convex_with_non_negative_weights(name: str) -> None:
    model = nonneg(getattr(models, name)(weights=None))
    assert cx.certify(model, IMAGE).require().curvature == "convex"
    flip_one_scale(model)
    certificate = cx.certify(model, IMAGE)
    assert not certificate.convex
    assert certificate.findings[0].operator == "aten.batch_norm"
    assert "-0.001" in certificate.findings[0].reason


@pytest.mark.parametrize(("name", "operator"), BROKEN)
def test_the_first_operator_that_breaks(name: str, operator: str) -> None:
    model = getattr(models, name)(weights=None)
    if operator != "aten.conv2d":
        nonneg(model)
    finding = cx.certify(model, IMAGE).findings[0]
    assert finding.operator == operator
    assert finding.path
    assert "torchvision" in finding.source

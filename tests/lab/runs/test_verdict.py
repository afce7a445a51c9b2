"""Verdicts: what is proved, what keeps it, and the tier, on networks made in each of the ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import convexnet as cx
from convexnet.constraints.sets import METHODS
from convexnet.lab.runs.verdict import verdict
from convexnet.split import shifted

EXAMPLE = torch.linspace(-1, 1, 8).reshape(2, 4)


def ordinary(outputs: int = 3, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(1)
    layers = [nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, outputs)]
    return nn.Sequential(*layers)


def converted(**options: object) -> Callable[[], nn.Module]:
    return lambda: cx.convexify(ordinary(), EXAMPLE, **options)  # type: ignore[arg-type]


def by_hand() -> nn.Module:
    """Non-negative weights that nothing keeps so."""
    network = ordinary()
    for index in (2, 4):
        network[index].weight.data.abs_()
    return network


def one_output() -> nn.Module:
    network = ordinary(1)
    cx.constrain(network, EXAMPLE, method="clip")
    return network


MADE: dict[str, tuple[Callable[[], nn.Module], str | None, bool]] = {
    "ordinary": (ordinary, None, False),
    "shifted": (lambda: shifted(ordinary(), EXAMPLE), "T0", True),
    "free head": (converted(head="free", method="clip"), "T1", True),
    "free head, computed": (converted(head="free", method="softplus"), "T1", True),
    **{method: (converted(method=method), "T2", True) for method in METHODS},
    "by hand": (by_hand, "T2", False),
    "by hand, frozen": (lambda: by_hand().requires_grad_(False), "T2", True),
    "linear": (lambda: nn.Linear(4, 3), "T2", True),
    "one output": (one_output, "T3", True),
    "ficnn": (lambda: cx.nn.FICNN(4), "T3", True),
    "compiled": (lambda: cast("nn.Module", torch.compile(converted(method="clip")(), backend="eager")), "T2", True),
    "inside another": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Sequential(converted(method="clip")())), "T2", True),
}


@pytest.mark.parametrize("name", MADE)
def test_tier_and_what_keeps_it(name: str) -> None:
    make, tier, kept = MADE[name]
    model = make()
    example: Tensor = EXAMPLE.double() if name == "shifted" else EXAMPLE
    before = model.training
    found = verdict(model, example)
    assert (found.tier, found.kept, found.convex) == (tier, kept, tier is not None)
    assert found.certified == (found.convex and kept)
    assert (found.breaks is None) == found.convex
    assert model.training == before


def test_a_network_that_nothing_keeps_is_lost_in_one_step() -> None:
    """What `kept` is about: by hand and constrained, both convex now, and one of them after a step."""
    after: list[bool] = []
    for model in (by_hand(), converted(method="clip")()):
        assert verdict(model, EXAMPLE).convex
        optimiser = torch.optim.SGD(model.parameters(), lr=10.0)
        if verdict(model, EXAMPLE).kept:
            cx.constrain(model, EXAMPLE).attach(optimiser)
        model(EXAMPLE).square().sum().backward()
        optimiser.step()
        after.append(verdict(model, EXAMPLE).convex)
    assert after == [False, True]


def test_a_scale_left_free_by_the_constraint_is_not_kept() -> None:
    from convexnet.lab.models.convex import without_scales

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, 3))
    cone = cx.constrain(model, EXAMPLE, method="clip")
    assert verdict(model, EXAMPLE).certified
    without_scales(cone)
    found = verdict(model, EXAMPLE)
    assert (found.convex, found.kept, found.certified) == (True, False, False)


def test_what_breaks_it_is_named() -> None:
    found = verdict(ordinary(activation=nn.SiLU), EXAMPLE)
    assert found.breaks is not None
    assert found.breaks[:2] == ("1", "aten.silu")
    assert found.curvature == "unknown"

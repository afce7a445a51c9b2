"""The message of a solution: one reason, the first that holds, with its remedy."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from convexnet.solve.message import WIDE, Summary

NONE = torch.zeros(3, dtype=torch.bool)
LAST = torch.tensor([False, False, True])
PLAIN = Summary(
    ~LAST,
    torch.zeros(3),
    solver="newton",
    gap=0.25,
    compact=True,
    closed="",
    rounded=None,
    unbounded=NONE,
    other=NONE,
    side=2.0,
)


def test_what_has_converged_needs_no_reason() -> None:
    done = replace(PLAIN, converged=~NONE, other=LAST, side=WIDE)
    assert done.message == "all 3 converged (newton)"
    assert replace(done, converged=~NONE[:1], closed="no row").message == (
        "converged (newton, on its values and tangents alone: no row)"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "try a larger tol, max_steps or time_limit"),
        ({"side": WIDE}, "give bounds that are nearer"),
        ({"rounded": (torch.float32, LAST), "side": WIDE}, r"1 of them only since x was rounded to float32.*tol\)$"),
        ({"rounded": (torch.float32, NONE)}, "max_steps or time_limit"),
        ({"compact": False, "bound": torch.tensor([0.0, 0.0, -torch.inf])}, "strong convexity"),
        ({"compact": False}, "max_steps or time_limit"),
        ({"unbounded": LAST, "compact": False, "bound": -torch.inf * torch.ones(3)}, r"unbounded.*\(sample 2\)"),
        ({"other": LAST, "unbounded": LAST}, "Nothing is proved of sample 2: the module's own forward"),
    ],
)
def test_the_first_reason_that_holds(changes: dict[str, Any], told: str) -> None:
    found = replace(PLAIN, **changes)
    assert found.message.startswith("2 of 3 converged (newton); largest gap 0.25 of the size of f")
    assert re.search(told, found.message), found.message

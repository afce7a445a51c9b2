"""Which of many cases a run takes: the same on every run, others with another seed, and all of them in `make slow`."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], count: int, name: str) -> list[Any]:
    """Cases for `parametrize`: `count` of them, drawn by the seed of the tests and a name, and the others marked slow.

    Each case is a tuple of arguments, or the one argument itself.
    """
    cases = list(cases)
    seed = os.environ.get("CONVEXNET_TEST_SEED", "2021")
    taken = set(random.Random(f"{seed} {name}").sample(range(len(cases)), count))
    return [
        case if number in taken else pytest.param(*(case if type(case) is tuple else (case,)), marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]

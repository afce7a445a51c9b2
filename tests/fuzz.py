"""Every search for something wrong, one after the other: `make fuzz SECONDS=600`, or `python -m tests.fuzz`.

    curvature   random programs: what is certified is convex on chords (tests/curvature/fuzz.py)
    solve       energies of operators, layers and other inputs: what minimise promises (tests/solve/fuzz.py)
    rows        what the rules of the table claim of drawn facts (tests/curvature/test_table.py)
    forms       what exporters and solvers make of random programs (tests/export/test_fuzz.py)

Each has its share of the time and begins at the same seed, which is another one on every run and is printed. The first
violation ends the run with status 1, after a command that shows it again.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence

import torch

from tests.curvature import fuzz as programs
from tests.curvature.oracles import SAMPLES
from tests.curvature.test_table import TABLE, attack
from tests.solve import fuzz as energies

SHARES = {"curvature": 0.4, "solve": 0.35, "rows": 0.15, "forms": 0.1}
NAMES = sorted(SAMPLES)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Every search for something wrong, one after the other.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of: {', '.join(SHARES)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="the first seed of each part; the following ones are used in turn")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(SHARES):
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    parts = options.parts or list(SHARES)
    first = secrets.randbelow(10**8) if options.seed is None else options.seed
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"seed {first}: again with `make fuzz SEED={first}`", flush=True)
    for part in parts:
        seconds = options.seconds * SHARES[part] / sum(SHARES[each] for each in parts)
        print(f"== {part}, {seconds:.0f} s", flush=True)
        if part in ("curvature", "solve"):
            run = {"curvature": programs.main, "solve": energies.main}[part]
            status = run(["--seconds", str(seconds), "--seed", str(first)])
        else:
            status = searched({"rows": row, "forms": form}[part], first, seconds)
        if status:
            return status
    print(f"nothing wrong from seed {first}")
    return 0


def searched(look: Callable[[int], None], first: int, seconds: float) -> int:
    """Look at one seed after the other; status 1 at the first that is wrong."""
    seed, start = first, time.monotonic()
    while time.monotonic() - start < seconds:
        try:
            look(seed)
        except Exception:
            traceback.print_exc()
            print(f'\nWRONG. Again: python -c "from tests.fuzz import {look.__name__}; {look.__name__}({seed})"')
            return 1
        seed += 1
    print(f"seeds {first} to {seed - 1}, 0 wrong")
    return 0


def row(seed: int) -> None:
    """The claims of one operator's rule."""
    name = NAMES[seed % len(NAMES)]
    wrong = attack(name, TABLE[name].rule, SAMPLES[name], seed, trials=6)
    assert not wrong, "\n".join(wrong)


def form(seed: int) -> None:
    """The form of one random program."""
    from tests.export.test_fuzz import anything, assert_right, convex  # asks for CVXPY

    assert_right((convex, anything)[seed % 2](seed), seed, solve=seed % 5 == 0)


if __name__ == "__main__":
    sys.exit(main())

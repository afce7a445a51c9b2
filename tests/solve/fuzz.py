"""Energies of single operators against `minimise`, seed after seed: `python -m tests.solve.fuzz --seconds 60`.

It ends with status 1 and a reproduction at the first promise that is not kept; see `energies`.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence

import torch

from tests.solve.energies import NAMES, Wrong, checked, drawn


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Energies of single operators against minimise.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=10_000, help="the first seed; the following ones are used in turn")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    start, seed = time.monotonic(), options.seed
    while time.monotonic() - start < options.seconds:
        name = NAMES[seed % len(NAMES)]
        seed += 1
        counts["drawn"] += 1
        try:
            energy = drawn(seed - 1, name)
            if energy is None:
                continue
            solution = checked(energy)
        except Exception as error:
            print(f"\nWRONG: {error}")
            if not isinstance(error, Wrong):
                traceback.print_exc()
            print(
                f'Again: python -c "from tests.solve.energies import checked, drawn; '
                f'checked(drawn({seed - 1}, {name!r}))"'
            )
            return 1
        if solution is None:
            continue
        counts["minimised"] += 1
        counts["converged"] += bool(solution.converged.all())
    print(f"seeds {options.seed} to {seed - 1}: ", end="")
    print(f"{counts['minimised']} of {counts['drawn']} energies minimised, {counts['converged']} converged, 0 wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())

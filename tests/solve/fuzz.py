"""Energies against `minimise`, seed after seed: `python -m tests.solve.fuzz --seconds 60`.

Every fourth is of layers with unusual settings or of other inputs of every type (`odd_arguments`), the others of single
operators (`energies`). It ends with status 1 and a reproduction at the first promise that is not kept.
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
from tests.solve.odd_arguments import drawn_oddly

ODD = 4
"""One of so many is odd."""


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
        name, odd = NAMES[seed % len(NAMES)], seed % ODD == 0
        seed += 1
        counts["drawn"] += 1
        try:
            energy = drawn_oddly(seed - 1) if odd else drawn(seed - 1, name)
            if energy is None:
                continue
            solution = checked(energy)
        except Exception as error:
            print(f"\nWRONG: {error}")
            if not isinstance(error, Wrong):
                traceback.print_exc()
            home, call = ("odd_arguments", "drawn_oddly") if odd else ("energies", "drawn")
            again = f"{call}({seed - 1})" if odd else f"{call}({seed - 1}, {name!r})"
            print(
                f'Again: python -c "from tests.solve.energies import checked; from tests.solve.{home} import {call}; '
                f'checked({again})"'
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

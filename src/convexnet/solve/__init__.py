"""Minimising a certified network over its inputs.

Read `convexnet.form` first (what a network is made of), and then: `drive` (the loop all solvers run in), `newton` with
`tangents` (primal-dual path following), `lp` (the same form as a linear program), `proof` with `rounding` (bounds that
hold in floating point), `minimise` with `reading`, `structure` and `choose` (the public function), `derivatives` with
`holding`.
"""

from convexnet.solve.minimise import minimise
from convexnet.solve.solution import Solution

__all__ = ["Solution", "minimise"]

"""Minimising a certified network over its inputs.

Read in this order: `bends` (the convex functions between affine maps), `kink_form` (a network as affine maps between
bends, for a batch of samples, and the affine functions below it), `kinks` and `opened` (from a traced program to that
form), `drive` (the loop all solvers run in), `newton` with `tangents` (primal-dual path following), `lp` (the same form
as a linear program), `proof` with `rounding` (bounds that hold in floating point), `minimise` with `reading`,
`structure` and `choose` (the public function), `derivatives` with `holding`.
"""

from convexnet.solve.minimise import minimise
from convexnet.solve.solution import Solution

__all__ = ["Solution", "minimise"]

"""Minimising a certified network over its inputs.

Read `convexnet.form` first (what a network is made of), and then: `minimise` with `arguments`, `compiled` and
`fingerprint` (the public function, and what it remembers of a module), `functions` (what a solver sees), `solvers` (the
methods, the loop they run in and the choice among them), `lower_bounds` with `rounding_errors` (bounds that hold in
floating point), `derivatives`.
"""

from convexnet.solve.at_most import at_most
from convexnet.solve.minimise import minimise
from convexnet.solve.minimiser import Minimiser
from convexnet.solve.operations import conjugate, impute, maximise, prox
from convexnet.solve.rollout import rollout
from convexnet.solve.solution import Solution

__all__ = ["Minimiser", "Solution", "at_most", "conjugate", "impute", "maximise", "minimise", "prox", "rollout"]

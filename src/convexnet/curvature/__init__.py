"""The curvature calculus: one traced program, facts per element, one rule table, the composition theorem once.

Read in this order: `facts` (what is known about an element; the composition theorem); the four kinds of operator in
`pointwise`, `linear`, `shapes` and `reductions`; the exceptions in `arithmetic` and `layers`; `table` (every operator);
`trace` (the program), `walk` (facts from inputs to outputs), `certificate` (the verdict), `falsify` (the adversary).
"""

from convexnet.curvature.certificate import Certificate, Step, certify, certify_program
from convexnet.curvature.findings import Finding
from convexnet.curvature.trace import Program, trace

__all__ = ["Certificate", "Finding", "Program", "Step", "certify", "certify_program", "trace"]

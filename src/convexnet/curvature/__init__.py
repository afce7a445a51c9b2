"""The curvature calculus: one traced program, facts per element, one rule table, the composition theorem once.

Read in this order: `facts` (what is known about an element; the composition theorem), `pointwise`, `linear` and
`kinds` (the kinds of operator), `special` (the exceptions), `table` (every operator), `trace` (the program), `walk`
(facts from inputs to outputs), `certificate` (the verdict) and `falsify` (the adversary).
"""

from convexnet.curvature.certificate import Certificate, Finding, Step, certify, certify_program
from convexnet.curvature.trace import Program, trace

__all__ = ["Certificate", "Finding", "Program", "Step", "certify", "certify_program", "trace"]

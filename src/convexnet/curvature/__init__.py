"""The curvature calculus: one traced program, facts per element, one rule table, the composition theorem once.

Read in this order: `facts` (what is known about an element, and the composition theorem; `fields` is how it is stored);
the four kinds of operator in `pointwise`, `linear` (with `forms`), `shapes` and `reductions`; the exceptions in
`arithmetic` and `layers`, and what is refused in `opaque`; `table` (every operator); then `trace` (the program), `walk`
(facts from inputs to outputs) and `certificate` (the verdict). The adversary is `falsify`, with `chords`, `guided` and
`units`, on the nonlinearities that `kinks` lists and `recorder` opens.
"""

from convexnet.curvature.certificate import Certificate, Step, certify, certify_program
from convexnet.curvature.findings import Finding
from convexnet.curvature.trace import Program, trace

__all__ = ["Certificate", "Finding", "Program", "Step", "certify", "certify_program", "trace"]

"""The curvature calculus: one traced program, facts per element, one rule table, the composition theorem once.

Read in this order: `facts` (what is known about an element; `fields` is how it is stored) and `composition` (what an
operator makes of facts: the theorem); the four kinds of operator in `rules`: `pointwise`, `linear` (with `pairings`),
`shapes` and `reductions`; the exceptions in `rules.arithmetic` and `rules.layers`, and what is refused in
`rules.opaque_operators`; `table` (every operator); then `tracing` (from a module to its program), `walk` (facts from
inputs to outputs) and `certificate` (the verdict). `patterns` is what several operators make together. `adversary`
searches for what contradicts a certificate: `falsify`, with `chords`, `guided_search` and `unit_crossings`, on the
nonlinearities that `kink_table` lists and `unit_recorder` opens.
"""

from convexnet.curvature.certificate import Certificate, Step, certify, certify_program
from convexnet.curvature.findings import Finding
from convexnet.curvature.tracing.trace import Program, trace

__all__ = ["Certificate", "Finding", "Program", "Step", "certify", "certify_program", "trace"]

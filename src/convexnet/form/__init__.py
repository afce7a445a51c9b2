"""The certified program as a = c + U y + Σ W z, z = φ(a), for the solvers and the exporters alike.

Read in this order: `atoms`, `smooth` and `grouped` (the convex functions φ), `operators` (the one table that lowers an
operator to atoms and affine maps), `patterns` with `means`, `perspective` and `quadratic` (what several operators make
together), `program` with `affinity` (the traced program, cut at its atoms), `matrices` and
`linear_maps` (its affine pieces as matrices, for a batch), `epigraph` (what solvers work on), `sparse` and `tightness`
(one sample, for the exporters, and why inequalities are enough there). `refusals` makes the error for what cannot be
lowered.
"""

"""The certified program as affine maps and convex atoms, for the solvers and the exporters alike."""

"""Minimising a certified network over its inputs.

Read in this order: `kinks` (piecewise linear operators, written with one kink), `kink_form` (a network as affine maps
between kinks, for a batch of samples, and the affine functions below it), `opened` (from a traced program to that
form), `path` and `newton` (primal-dual path following on it), `lp` (the same form as a linear program).
"""

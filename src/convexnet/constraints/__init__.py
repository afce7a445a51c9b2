"""Keeping a network convex while it trains: which parameters must lie in which intervals, and how they are kept there.

Read in this order: `sets` (intervals and the methods that bring a weight into one), `coefficient_signs` (which signs
one operator requires of its coefficients), `to_parameters` (from coefficients to the parameters they are computed
from), `elements_read` (which elements the outputs depend on), `required_signs` (the walk that collects all this),
`parametrised` (weights that cannot leave their interval), `optimizer_parameters` (which of them an optimiser holds),
`cone` (the projection after each step), `constrain`.
"""

from convexnet.constraints.cone import Cone as Cone
from convexnet.constraints.constrain import constrain as constrain
from convexnet.constraints.required_signs import derive_intervals as derive_intervals
from convexnet.constraints.sets import Interval as Interval

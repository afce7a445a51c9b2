"""Keeping a network convex while it trains: which parameters must lie in which intervals, and how they are kept there.

Read in this order: `sets` (intervals and the methods that bring a weight into one), `demand` (what one operator asks of
its coefficients, and of the parameters they are computed from), `derive` (the walk that collects the demands),
`parametrised` (weights that cannot leave their interval), `held` (what an optimiser holds), `cone` (the projection
after each step), `keeping` (`constrain`).
"""

from convexnet.constraints.cone import Cone as Cone
from convexnet.constraints.derive import derive as derive
from convexnet.constraints.keeping import constrain as constrain
from convexnet.constraints.sets import Interval as Interval

"""Networks as differences p − q of convex functions: the values, how operators act on them, and the modules p and q.

Read in this order: `arithmetic` (a difference, its sum, multiple and maximum), `rules` (a literal table keyed by
operator), `convex_part` (the traced network, executed on differences). `split` is what a user calls.
"""

from convexnet.differences.arithmetic import Difference
from convexnet.differences.convex_part import ConvexPart, trace_for_rows

__all__ = ["ConvexPart", "Difference", "trace_for_rows"]

"""Networks inside other people's solvers: as a CVXPY expression, as a linear program for HiGHS."""

from convexnet.export.to_cvxpy import to_cvxpy
from convexnet.export.to_lp import to_lp

__all__ = ["to_cvxpy", "to_lp"]

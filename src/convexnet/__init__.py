"""convexnet: convex neural networks in PyTorch, with a proof."""

from convexnet import nn
from convexnet.constraints import Cone, constrain
from convexnet.conversion import Change, bake, changes, convexify
from convexnet.curvature import Certificate, Finding, certify
from convexnet.curvature.falsify import Counterexample, falsify
from convexnet.domains import Box
from convexnet.errors import ConvexNetError, NotCertified, NotTraceable
from convexnet.export import to_cvxpy, to_lp
from convexnet.solve import Solution, minimise
from convexnet.split import split
from convexnet.storage import load, save

__version__ = "0.1.0"

__all__ = [
    "Box",
    "Certificate",
    "Change",
    "Cone",
    "ConvexNetError",
    "Counterexample",
    "Finding",
    "NotCertified",
    "NotTraceable",
    "Solution",
    "__version__",
    "bake",
    "certify",
    "changes",
    "constrain",
    "convexify",
    "falsify",
    "load",
    "minimise",
    "nn",
    "save",
    "split",
    "to_cvxpy",
    "to_lp",
]

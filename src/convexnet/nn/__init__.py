"""Networks that are convex in their inputs, and the parts with which others are made convex.

Networks: `FICNN` and `ConvFICNN`, convex in their whole input, `PICNN` and `ConvPICNN`, convex in one of two, `ICRNN`,
convex in a whole sequence. Their parts: layers with non-negative weights, norms that are affine in eval mode, a head
with free weights, gates without products.
"""

from convexnet.nn.convolutional import ConvFICNN as ConvFICNN
from convexnet.nn.convolutional import ConvPICNN as ConvPICNN
from convexnet.nn.ficnn import FICNN as FICNN
from convexnet.nn.gates import PooledSum as PooledSum
from convexnet.nn.gates import removed as removed
from convexnet.nn.grids import Convolution as Convolution
from convexnet.nn.heads import FreeHead as FreeHead
from convexnet.nn.layers import ConvexConv2d as ConvexConv2d
from convexnet.nn.layers import ConvexLinear as ConvexLinear
from convexnet.nn.norms import Affine as Affine
from convexnet.nn.norms import BatchNormAlong as BatchNormAlong
from convexnet.nn.picnn import PICNN as PICNN
from convexnet.nn.recurrent import ICRNN as ICRNN
from convexnet.nn.signs import BothSigns as BothSigns
from convexnet.nn.standardised import Standardised as Standardised

__all__ = [
    "FICNN",
    "ICRNN",
    "PICNN",
    "Affine",
    "BatchNormAlong",
    "BothSigns",
    "ConvFICNN",
    "ConvPICNN",
    "ConvexConv2d",
    "ConvexLinear",
    "Convolution",
    "FreeHead",
    "PooledSum",
    "Standardised",
    "removed",
]

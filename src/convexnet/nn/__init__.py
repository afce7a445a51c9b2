"""Building blocks of convex networks: norms affine in eval mode, a head with free weights, gates without products."""

from convexnet.nn.gates import PooledSum as PooledSum
from convexnet.nn.gates import removed as removed
from convexnet.nn.heads import FreeHead as FreeHead
from convexnet.nn.norms import Affine as Affine
from convexnet.nn.norms import BatchNormAlong as BatchNormAlong

__all__ = ["Affine", "BatchNormAlong", "FreeHead", "PooledSum", "removed"]

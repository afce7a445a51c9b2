"""Sets that inputs range over: one file for each. `domain` has what they have in common, `nearest` the projections."""

from convexnet.domains.ball import Ball
from convexnet.domains.box import Box
from convexnet.domains.cube import Cube
from convexnet.domains.domain import Domain, Region
from convexnet.domains.free import Free
from convexnet.domains.orthant import Orthant
from convexnet.domains.polyhedron import Polyhedron
from convexnet.domains.product import Product
from convexnet.domains.simplex import Simplex

__all__ = ["Ball", "Box", "Cube", "Domain", "Free", "Orthant", "Polyhedron", "Product", "Region", "Simplex"]

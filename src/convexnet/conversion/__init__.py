"""From an ordinary network to its convex counterpart, and on to plain layers.

Read in this order: `rewrites` (what is exchanged for what), `widen` (a wider first layer), `head` (a head with free
weights), `convexify` (all of it, then the constraint), `changes` (the list of what was done), `bake` (plain layers).
"""

from convexnet.conversion.bake import bake as bake
from convexnet.conversion.changes import Change as Change
from convexnet.conversion.changes import changes as changes
from convexnet.conversion.convexify import convexify as convexify

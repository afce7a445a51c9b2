"""Ordinary base networks that no library ships, as their papers state them; `convexify` makes their counterparts.

None of them is convex: they are what the convex networks are compared with. Each is made of modules only (no functional
activations), none used at two places and none working in place, so that every one of them can be exchanged. `mlp`,
`allconv` and `densenet` hold one family each, `parts` what they share.
"""

from convexnet.zoo.allconv import AllConv, allconv_published
from convexnet.zoo.densenet import DenseNet, densenet40, densenet_bc100, densenet_published, densenet_small
from convexnet.zoo.mlp import MLP, mlp_published
from convexnet.zoo.parts import ACTIVATIONS

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "AllConv",
    "DenseNet",
    "allconv_published",
    "densenet40",
    "densenet_bc100",
    "densenet_published",
    "densenet_small",
    "mlp_published",
]

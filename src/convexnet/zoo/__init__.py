"""Base networks as their papers state them; `convexify` makes their counterparts.

None is convex as its paper has it: they are what the convex networks are compared with. Each is made of modules only
(no functional activations), none used at two places and none working in place, so that every one of them can be
exchanged. `mlp`, `allconv` and `densenet` hold one family each, `parts` what they share. `mixer`,
`cyclemlp` and `efficientnet` come in variants, the certified one among them; `variants` has what those share.
"""

from convexnet.zoo.allconv import AllConv, allconv_published
from convexnet.zoo.cyclemlp import CycleFC, CycleMLP, cyclemlp_b1
from convexnet.zoo.densenet import DenseNet, densenet40, densenet_bc100, densenet_published, densenet_small
from convexnet.zoo.efficientnet import EfficientNet, efficientnet_b0
from convexnet.zoo.mixer import Mixer, mixer
from convexnet.zoo.mlp import MLP, mlp_published
from convexnet.zoo.parts import ACTIVATIONS, DropPath
from convexnet.zoo.variants import report_constraint

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "AllConv",
    "CycleFC",
    "CycleMLP",
    "DenseNet",
    "DropPath",
    "EfficientNet",
    "Mixer",
    "allconv_published",
    "cyclemlp_b1",
    "densenet40",
    "densenet_bc100",
    "densenet_published",
    "densenet_small",
    "efficientnet_b0",
    "mixer",
    "mlp_published",
    "report_constraint",
]

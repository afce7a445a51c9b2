"""Learn an energy f(x, y) whose least y is the prediction: max-margin, through the argmin, unrolled; and exemplars.

To read in this order: `samples` (what is learnt from), `values` (f at a given pair), `contexts` (x computed once),
`cutting_planes` (classes) and `entropy` (labels), the fast searches; `hinge`, `exemplars`, `predict`, `unrolled`
(descent as a layer), `missing` (completion), `training` and `fit` (the loop).
"""

from convexnet.energy.exemplars import exemplar_loss, exemplars
from convexnet.energy.fit import History, fit
from convexnet.energy.hinge import structured_hinge
from convexnet.energy.predict import predict
from convexnet.energy.training import EnergyTraining
from convexnet.energy.unrolled import unrolled
from convexnet.energy.values import Joint

__all__ = [
    "EnergyTraining",
    "History",
    "Joint",
    "exemplar_loss",
    "exemplars",
    "fit",
    "predict",
    "structured_hinge",
    "unrolled",
]

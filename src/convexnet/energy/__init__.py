"""Learn an energy f(x, y) whose least y is the prediction: max-margin, through the argmin, unrolled; and exemplars.

To read in this order: `samples` (what is learnt from), `values` (f at a given pair), `hinge`, `exemplars`, `predict`,
`unrolled` (descent as a
layer), `missing` (completion), `training` (the loop).
"""

from convexnet.energy.exemplars import exemplar_loss, exemplars
from convexnet.energy.hinge import structured_hinge
from convexnet.energy.predict import predict
from convexnet.energy.training import EnergyTraining, History, fit
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

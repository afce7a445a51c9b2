"""Ensembles of networks: mixtures trained by EM, boosting with a gate, and fusions that stay convex."""

from convexnet.ensembles.boosted import Boosted
from convexnet.ensembles.boosting import Boosting, boost
from convexnet.ensembles.certificates import Certificates
from convexnet.ensembles.em import ExpectationMaximisation
from convexnet.ensembles.fusion import Fused, fuse
from convexnet.ensembles.gating import GateTraining
from convexnet.ensembles.mixture import MixtureOfExperts
from convexnet.ensembles.outputs import oracle_accuracy
from convexnet.training import History

__all__ = [
    "Boosted",
    "Boosting",
    "Certificates",
    "ExpectationMaximisation",
    "Fused",
    "GateTraining",
    "History",
    "MixtureOfExperts",
    "boost",
    "fuse",
    "oracle_accuracy",
]

"""Initial values for non-negative weights, and the correlation that shows whether they work.

Non-negative weights have a positive mean, so every unit of a layer adds up much the same signal: a few layers on, all
units say the same thing. `weights` has three initialisers in the habit of `torch.nn.init`, `activation_moments` the
constants that one of them needs for any activation, and `model` what concerns a whole model: `initialise` for its
constrained weights and `correlation`, the measure of the harm. docs/initialisation.md compares them.
"""

from convexnet.initialise.activation_moments import Moments, moments
from convexnet.initialise.model import correlation, initialise
from convexnet.initialise.weights import identity_, lognormal_, paper_

__all__ = ["Moments", "correlation", "identity_", "initialise", "lognormal_", "moments", "paper_"]

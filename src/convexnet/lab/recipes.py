"""Recipes: how a network is made and trained, as plain data; those of the paper's text and code, and ours.

Where the paper's text and the published code differ (a third party's upload of what looks like the authors' code; that
it is theirs is not proved), both are here under their own names, and every record says which one it used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from convexnet.lab.networks import Convex


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how one network is trained; numbers and words only, so that a record can hold it.

    Attributes:
        name: of the recipe it is or was derived from.
        epochs: at most so many passes over the training data.
        batch: samples in a step, over all processes together.
        learning_rate: Adam's, in the first epoch.
        decay: what is left of it after the last epoch; it falls by the same factor every epoch. 1: it stays.
        weight_decay: decoupled (AdamW).
        patience: epochs without a better validation accuracy after which training stops; None: it does not.
        augment: the name of a set of augmentations, see `convexnet.lab.data`.
        normalise: the fixed first step, see `convexnet.lab.whiten.normaliser`: "none", "mean-std" (of each colour),
            "standard" (of each pixel) or "zca" (whitened).
        epsilon: of "standard" and "zca", in units of the average variance of the colours.
        smoothing: of the labels, 0 to 1.
        average: exponential moving average of the weights, the share kept at each step; None: the weights themselves.
        published: networks with Glorot-uniform weights and Keras's BatchNorm, as the published code has them.
        precision: of Lightning Fabric: "32-true", "bf16-mixed", "16-mixed", ...
        compiled: whether `torch.compile` translates the network.
        convex: how the convex counterpart is made; without meaning for an ordinary network.

    Example:
        >>> recipe("paper-text", convex=True).normalise, recipe("paper-text", convex=False).normalise
        ('zca', 'mean-std')
    """

    name: str
    epochs: int
    batch: int = 128
    learning_rate: float = 1e-4
    decay: float = 1.0
    weight_decay: float = 0.0
    patience: int | None = None
    augment: str = "none"
    normalise: str = "mean-std"
    epsilon: float = 0.1
    smoothing: float = 0.0
    average: float | None = None
    published: bool = False
    precision: str = "32-true"
    compiled: bool = False
    convex: Convex = field(default_factory=Convex)


# Section 4, "Dataset and Architectures" and "Training IOC architectures". The text gives Adam's rate, early stopping on
# validation accuracy, ReLU or ELU, and, for the convex network, whitening. It gives no batch size, no number of epochs,
# no patience and no augmentation for the MLP: those are ours. Its wider first layer is not for the MLP, whose convex
# counterpart has the same parameter count (table 4).
PAPER_TEXT = Recipe(name="paper-text", epochs=1000, batch=128, learning_rate=1e-4, patience=50)
PAPER_TEXT_CONVEX = replace(PAPER_TEXT, normalise="zca")

# The published code, for the MLP: Adam 1e-3, batches of 64, 1300 epochs, mean and spread instead of whitening, crops
# with a margin of four pixels, flips, small rotations and shears, for both networks; no early stopping.
PAPER_CODE = Recipe(name="paper-code", epochs=1300, batch=64, learning_rate=1e-3, augment="paper-code", published=True)

# Ours: the rate falls to a hundredth (for the convex network to a tenth: "a slower schedule"), the weights are
# averaged, and the convex network starts close to the identity, where its units are not all alike.
OURS = Recipe(
    name="ours", epochs=100, batch=128, learning_rate=1e-3, decay=0.01, weight_decay=0.01, patience=None, average=0.998
)
OURS_CONVEX = replace(OURS, decay=0.1, convex=Convex(init="identity"))

RECIPES: Mapping[str, tuple[Recipe, Recipe]] = MappingProxyType(
    {
        "paper-text": (PAPER_TEXT, PAPER_TEXT_CONVEX),
        "paper-code": (PAPER_CODE, PAPER_CODE),
        "ours": (OURS, OURS_CONVEX),
    }
)
"""By name: for ordinary networks, and for convex ones."""


def described(name: str) -> str:
    """A recipe in a sentence, for the caption of a table.

    Example:
        >>> described("paper-text")
        'Recipe paper-text: Adam at 0.0001, batches of 128; inputs mean-std (ordinary), zca (convex)'
    """
    ordinary, convex = RECIPES[name]
    said = f"Recipe {name}: Adam at {ordinary.learning_rate:g}, batches of {ordinary.batch}"
    said += f"; inputs {ordinary.normalise}"
    if convex.normalise != ordinary.normalise:
        said += f" (ordinary), {convex.normalise} (convex)"
    return said if ordinary.augment == "none" else f"{said}; augmentation {ordinary.augment}"


def recipe(name: str, *, convex: bool) -> Recipe:
    """The recipe of that name for an ordinary or a convex network.

    Raises:
        ValueError: there is none of that name.

    Example:
        >>> recipe("paper-code", convex=True).learning_rate
        0.001
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name][convex]

"""Make the built-in networks of experiments, ordinary ones and their convex counterparts, for the registry."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

import convexnet as cx
from convexnet.choices import ActivationName
from convexnet.lab.models.convex import EPSILON, Convex, Design, as_new
from convexnet.zoo import MLP, AllConv, DenseNet, allconv_published, densenet40, densenet_published, mlp_published

HIDDEN = (800, 800, 800)
"""Of the paper's MLP."""


@dataclass(frozen=True)
class Model:
    """One kind of network.

    Attributes:
        title: what tables call it.
        convex: whether it is meant to be convex, so that its constraint is attached to the optimiser.
        make: from the shape of a sample, the number of classes and a recipe.
        family: whose recipes it has, see `convexnet.lab.training.recipes`.
        recipe: which of them it is trained with, where none is named.
        colour: of a theme, in pictures; empty: it is drawn in none that tells networks apart.
        only: the part that is meant to be convex in its own input, where the whole is not.
    """

    title: str
    convex: bool
    make: Callable[[Sequence[int], int, Design], nn.Module]
    family: str = "mlp"
    recipe: str = "paper-text"
    colour: str = ""
    only: str = ""

    @property
    def constrained(self) -> bool:
        """Whether a constraint that makes it, or a part of it, convex is attached to the optimiser."""
        return self.convex or bool(self.only)


def mlp(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """Three hidden layers of 800, BatchNorm, ReLU (Sivaprasad et al. 2021, section 4)."""
    return perceptron(shape, classes, recipe, recipe.hidden or HIDDEN)


def both_signs(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """The ordinary MLP with the first layer of `ours`: its first activation sees both signs, nothing is constrained."""
    return perceptron(shape, classes, recipe, recipe.hidden or HIDDEN, both=True)


def shallow(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """One hidden layer. With a free head its counterpart is convex and nothing of it is constrained: a shift that all
    logits share makes the head's weights non-negative."""
    return perceptron(shape, classes, recipe, (recipe.hidden or HIDDEN)[:1])


def perceptron(shape: Sequence[int], classes: int, recipe: Design, hidden: Sequence[int], *, both: bool = False) -> MLP:
    """An MLP as the recipe draws it, with its dropout; `both`: the first activation sees both signs of its layer."""
    inputs = prod(shape)
    network = mlp_published(inputs, classes, hidden=hidden) if recipe.published else MLP(inputs, classes, hidden)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in network.layers.named_children():
        layers[name] = layer
        if name.startswith("activation") and recipe.dropout:
            layers[name.replace("activation", "dropout")] = nn.Dropout(recipe.dropout)
    if both:
        layers["activation1"] = cx.nn.BothSigns(layers["activation1"])
        after = "linear2" if len(hidden) > 1 else "head"
        old = layers[after]
        assert isinstance(old, nn.Linear)
        new = nn.Linear(2 * old.in_features, old.out_features)
        if recipe.published:
            nn.init.xavier_uniform_(new.weight)
            nn.init.zeros_(new.bias)
        layers[after] = new
    network.layers = nn.Sequential(layers)
    return network


def allconv(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """All-CNN-C, or the one with BatchNorm of the published code."""
    make = allconv_published if recipe.published else AllConv
    return make(classes, in_channels=shape[0])


def allconv_quarter(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """All-CNN-C at a quarter of its width, with BatchNorm and without dropout: two processor cores train it to the end.

    Without BatchNorm its counterpart hardly learns, and with dropout no loss falls as far as memorising asks for.
    """
    del recipe
    return AllConv(classes, in_channels=shape[0], norm=True, dropout=False, first=24, width=0.25)


def densenet(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """DenseNet of depth 40 and growth 12, or the one of the published code; the paper states the growth alone."""
    make = densenet_published if recipe.published else densenet40
    return make(classes, in_channels=shape[0])


def densenet16(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """DenseNet of depth 16 and growth 12, three blocks of four layers: one that two processor cores can train."""
    del recipe
    return DenseNet((4, 4, 4), 12, classes, in_channels=shape[0], first=24)


def ficnn(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """The baseline of table 4: 3 x 800, ReLU, the input passed to every layer, the output included; weights clipped."""
    network = cx.nn.FICNN(prod(shape), recipe.hidden or HIDDEN, classes, activation="relu", constraint="clip")
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), ficnn=network))


def counterpart(
    ordinary: Callable[[Sequence[int], int, Design], nn.Module],
    title: str,
    activation: ActivationName | None = None,
    colour: str = "",
    family: str = "mlp",
    recipe: str = "paper-text",
) -> Model:
    """The convex counterpart of a network as the recipe's `convex` has it; `activation` overrules the recipe's."""

    def make(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
        how = recipe.convex
        if how.whiten is not None:
            raise ValueError("whitening is the recipe's (`normalise`), not the network's: leave convex.whiten at None")
        return converted(ordinary(shape, classes, recipe), shape, how, activation or how.activation)

    return Model(title, convex=True, make=make, family=family, recipe=recipe, colour=colour)


def converted(
    network: nn.Module,
    shape: Sequence[int],
    how: Convex,
    activation: ActivationName,
    *,
    start: bool = True,
    replace: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]] = {},
    only: str | None = None,
) -> nn.Module:
    """`convexify` with the options of an experiment; without `start` its weights stay, but for their signs."""
    with warnings.catch_warnings():
        # It warns that a trained network loses accuracy. This one has learnt nothing yet.
        warnings.filterwarnings("ignore", "convexify projects weights", UserWarning)
        made = cx.convexify(
            network,
            torch.zeros(2, *shape),
            method=how.method,
            epsilon=EPSILON,
            activation=activation,
            widen_first=how.widen_first,
            init=how.init if start else None,
            head="free" if how.free_head else "nonnegative",
            replace=replace,
            only=only,
        )
    return as_new(made)

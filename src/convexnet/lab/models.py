"""The networks that experiments train, by name."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import torch
from torch import nn

import convexnet as cx
from convexnet.errors import meant
from convexnet.lab.networks import EPSILON, Convex, drawn_from
from convexnet.lab.recipes import Recipe
from convexnet.zoo import MLP, AllConv, allconv_published, mlp_published

HIDDEN = (800, 800, 800)
"""Of the paper's MLP."""


@dataclass(frozen=True)
class Model:
    """One kind of network.

    Attributes:
        title: what tables call it.
        convex: whether it is meant to be convex, so that its constraint is attached to the optimiser.
        make: from the shape of a sample, the number of classes and a recipe.
        family: whose recipes it has, see `convexnet.lab.recipes`.
        recipe: which of them it is trained with, where none is named.
    """

    title: str
    convex: bool
    make: Callable[[Sequence[int], int, Recipe], nn.Module]
    family: str = "mlp"
    recipe: str = "paper-text"


def mlp(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
    """Three hidden layers of 800, BatchNorm, ReLU (Sivaprasad et al. 2021, section 4)."""
    return mlp_published(prod(shape), classes) if recipe.published else MLP(prod(shape), classes, HIDDEN)


def allconv(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
    """All-CNN-C, or the one with BatchNorm of the published code."""
    make = allconv_published if recipe.published else AllConv
    return make(classes, in_channels=shape[0])


def ficnn(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
    """The baseline of table 4: 3 x 800, ReLU, the input passed to every layer, the output included; weights clipped."""
    del recipe
    network = cx.nn.FICNN(prod(shape), HIDDEN, classes, activation="relu", constraint="clip")
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), ficnn=network))


def counterpart(ordinary: Callable[[Sequence[int], int, Recipe], nn.Module], activation: str | None = None) -> Model:
    """The convex counterpart of a network as the recipe's `convex` has it; `activation` overrules the recipe's."""

    def make(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
        how = recipe.convex
        if how.whiten is not None:
            raise ValueError("whitening is the recipe's (`normalise`), not the network's: leave convex.whiten at None")
        return converted(ordinary(shape, classes, recipe), shape, how, activation or how.activation)

    title = "ReLU-constrained MLP" if activation == "relu" else f"IOC-{ordinary.__name__.upper()}"
    family = "allconv" if ordinary is allconv else "mlp"
    return Model(title.replace("ALLCONV", "AllConv"), convex=True, make=make, family=family)


def converted(network: nn.Module, shape: Sequence[int], how: Convex, activation: str) -> nn.Module:
    """`convexify` with the options of an experiment."""
    with warnings.catch_warnings():
        # It warns that a trained network loses accuracy. This one has learnt nothing yet.
        warnings.filterwarnings("ignore", "convexify projects weights", UserWarning)
        return cx.convexify(
            network,
            torch.zeros(2, *shape),
            method=how.method,
            epsilon=EPSILON,
            activation=activation,
            widen_first=how.widen_first,
            init=how.init,
            head="free" if how.free_head else "nonnegative",
        )


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "mlp": Model("MLP", convex=False, make=mlp),
        "relu-mlp": counterpart(mlp, activation="relu"),
        "ficnn": Model("FICNN", convex=True, make=ficnn),
        "ioc-mlp": counterpart(mlp),
        "allconv": Model("AllConv", convex=False, make=allconv, family="allconv"),
        "ioc-allconv": counterpart(allconv),
    }
)


def model_named(name: str) -> Model:
    """The model of that name; "timm:NAME" and "MODULE:FACTORY" are networks that are not built in.

    Raises:
        ValueError: there is none.

    Example:
        >>> model_named("relu-mlp").title, model_named("ioc-mlp").title
        ('ReLU-constrained MLP', 'IOC-MLP')
    """
    if ":" in name:
        from convexnet.lab.foreign import foreign

        return foreign(name)
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}{meant(name, MODELS)}; there are {', '.join(MODELS)}")
    return MODELS[name]


def build(name: str, shape: Sequence[int], classes: int, recipe: Recipe, seed: int) -> nn.Module:
    """A network of that name for samples of `shape`, its start drawn from `seed`.

    Example:
        >>> from convexnet.lab.recipes import recipe
        >>> network = build("ficnn", (3, 32, 32), 10, recipe("paper-text", convex=True), seed=0)
        >>> sum(parameter.numel() for parameter in network.parameters())
        8693930
    """
    kind = model_named(name)
    with drawn_from(seed):
        try:
            return kind.make(shape, classes, recipe)
        except RuntimeError as error:  # of torch: a convolution that is larger than what comes to it, say
            told = " ".join(str(error).split())[:200]
            raise ValueError(f"{name} does not take samples of shape {tuple(shape)}: {told}") from error

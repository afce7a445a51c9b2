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
from convexnet.choices import ActivationName
from convexnet.errors import meant
from convexnet.lab.networks import EPSILON, Convex, as_new, drawn_from
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
    return perceptron(shape, classes, recipe, recipe.hidden or HIDDEN)


def both_signs(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
    """The ordinary MLP with the first layer of `ours`: its first activation sees both signs, nothing is constrained."""
    return perceptron(shape, classes, recipe, recipe.hidden or HIDDEN, both=True)


def shallow(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
    """One hidden layer. With a free head its counterpart is convex and nothing of it is constrained: a shift that all
    logits share makes the head's weights non-negative."""
    return perceptron(shape, classes, recipe, (recipe.hidden or HIDDEN)[:1])


def perceptron(shape: Sequence[int], classes: int, recipe: Recipe, hidden: Sequence[int], *, both: bool = False) -> MLP:
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


def allconv(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
    """All-CNN-C, or the one with BatchNorm of the published code."""
    make = allconv_published if recipe.published else AllConv
    return make(classes, in_channels=shape[0])


def ficnn(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
    """The baseline of table 4: 3 x 800, ReLU, the input passed to every layer, the output included; weights clipped."""
    network = cx.nn.FICNN(prod(shape), recipe.hidden or HIDDEN, classes, activation="relu", constraint="clip")
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), ficnn=network))


def counterpart(
    ordinary: Callable[[Sequence[int], int, Recipe], nn.Module], title: str, activation: ActivationName | None = None
) -> Model:
    """The convex counterpart of a network as the recipe's `convex` has it; `activation` overrules the recipe's."""

    def make(shape: Sequence[int], classes: int, recipe: Recipe) -> nn.Module:
        how = recipe.convex
        if how.whiten is not None:
            raise ValueError("whitening is the recipe's (`normalise`), not the network's: leave convex.whiten at None")
        return converted(ordinary(shape, classes, recipe), shape, how, activation or how.activation)

    return Model(title, convex=True, make=make, family="allconv" if ordinary is allconv else "mlp")


def converted(network: nn.Module, shape: Sequence[int], how: Convex, activation: ActivationName) -> nn.Module:
    """`convexify` with the options of an experiment."""
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
            init=how.init,
            head="free" if how.free_head else "nonnegative",
        )
    return as_new(made)


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "mlp": Model("MLP", convex=False, make=mlp),
        "mlp-signs": Model("MLP, both signs", convex=False, make=both_signs),
        "relu-mlp": counterpart(mlp, "ReLU-constrained MLP", activation="relu"),
        "ficnn": Model("FICNN", convex=True, make=ficnn),
        "ioc-mlp": counterpart(mlp, "IOC-MLP"),
        "ioc-shallow": counterpart(shallow, "one hidden layer"),
        "allconv": Model("AllConv", convex=False, make=allconv, family="allconv"),
        "ioc-allconv": counterpart(allconv, "IOC-AllConv"),
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
            network = kind.make(shape, classes, recipe)
        except RuntimeError as error:  # of torch: a convolution that is larger than what comes to it, say
            told = " ".join(str(error).split())[:200]
            raise ValueError(f"{name} does not take samples of shape {tuple(shape)}: {told}") from error
    if recipe.dropout and not any(isinstance(module, nn.Dropout) for module in network.modules()):
        raise ValueError(f"the recipe drops {recipe.dropout:g} of hidden units, and {name} has no place for it")
    return network

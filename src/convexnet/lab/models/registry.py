"""The networks that experiments train, by name: the one list, from which `build` makes a network for its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import nn

from convexnet.errors import meant
from convexnet.lab.models.architectures import (
    Model,
    allconv,
    allconv_quarter,
    both_signs,
    counterpart,
    densenet,
    densenet16,
    ficnn,
    mlp,
    shallow,
)
from convexnet.lab.models.convex import Design, drawn_from
from convexnet.lab.models.foreign import foreign
from convexnet.lab.models.modern import MODERN
from convexnet.lab.models.sequences import icrnn, ioc_rnn, rnn
from convexnet.zoo import DropPath

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "mlp": Model("MLP", convex=False, make=mlp, colour="nn"),
        "mlp-signs": Model("MLP, both signs", convex=False, make=both_signs),
        "relu-mlp": counterpart(mlp, "ReLU-constrained MLP", activation="relu", colour="first"),
        "ficnn": Model("FICNN", convex=True, make=ficnn, colour="second"),
        "ioc-mlp": counterpart(mlp, "IOC-MLP", colour="ioc"),
        "ioc-shallow": counterpart(shallow, "one hidden layer"),
        "allconv": Model("AllConv", convex=False, make=allconv, family="allconv"),
        "ioc-allconv": counterpart(allconv, "IOC-AllConv", family="allconv"),
        "allconv-quarter": Model(
            "AllConv, a quarter", convex=False, make=allconv_quarter, family="quarter", recipe="ours", colour="nn"
        ),
        "ioc-allconv-quarter": counterpart(
            allconv_quarter, "IOC-AllConv, a quarter", family="quarter", recipe="ours", colour="ioc"
        ),
        "densenet": Model("DenseNet", convex=False, make=densenet, family="densenet"),
        "ioc-densenet": counterpart(densenet, "IOC-DenseNet", family="densenet"),
        "densenet-16": Model(
            "DenseNet, depth 16", convex=False, make=densenet16, family="other", recipe="ours", colour="nn"
        ),
        "ioc-densenet-16": counterpart(
            densenet16, "IOC-DenseNet, depth 16", family="other", recipe="ours", colour="ioc"
        ),
        "rnn": Model("RNN", convex=False, make=rnn, family="recurrent", recipe="ours", colour="nn"),
        "ioc-rnn": Model("IOC-RNN", convex=True, make=ioc_rnn, family="recurrent", recipe="ours", colour="ioc"),
        "icrnn": Model("ICRNN", convex=True, make=icrnn, family="recurrent", recipe="ours", colour="first"),
        **MODERN,
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
        return foreign(name)
    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}{meant(name, MODELS)}; there are {', '.join(MODELS)}")
    return MODELS[name]


def build(name: str, shape: Sequence[int], classes: int, recipe: Design, seed: int) -> nn.Module:
    """A network of that name for samples of `shape`, its start drawn from `seed`.

    Example:
        >>> from convexnet.lab.training.recipes import recipe
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
    if recipe.drop_path and not any(isinstance(module, DropPath) and module.share for module in network.modules()):
        raise ValueError(f"the recipe leaves out residual branches (drop-path), and {name} has no place for it")
    return network

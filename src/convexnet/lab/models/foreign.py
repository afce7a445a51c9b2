"""Make networks that are not built in, for the registry: models of timm by name, a user's own by import path."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from convexnet.curvature.tracing.restored_state import calling
from convexnet.errors import meant
from convexnet.lab.errors import UsageError
from convexnet.lab.models.architectures import Model, converted
from convexnet.lab.models.by_path import made, named
from convexnet.lab.models.convex import Design, drawn_from

TIMM = "timm"
CONVEX = "ioc-"
"""What the name of a convex counterpart begins with."""

FAMILY = "other"
"""Whose recipes they have."""


def foreign(name: str) -> Model:
    """The model that "timm:NAME" or "MODULE:FACTORY" names, or its convex counterpart with "ioc-" in front.

    The counterpart is what `convexify` makes with the options of the recipe; a free head becomes a non-negative one
    where the network does not end in a linear layer.

    Raises:
        ValueError: timm has no such model, or is not installed.
        ModuleNotFoundError: timm is not installed.
    """
    own = name.removeprefix(CONVEX)
    library, _, architecture = own.partition(":")
    make = of_timm(architecture) if library == TIMM else of_user(own)
    if own == name:
        return Model(own, convex=False, make=checked(own, make), family=FAMILY, recipe="ours")
    ordinary = checked(own, make)

    def counterpart(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
        network, how = ordinary(shape, classes, recipe), recipe.convex
        if how.free_head:
            try:
                return converted(network, shape, how, how.activation)
            except ValueError:  # something stands behind the head, or there is one output only
                how = replace(how, free_head=False)
        return converted(network, shape, how, how.activation)

    return Model(f"IOC-{own}", convex=True, make=counterpart, family=FAMILY, recipe="ours")


Make = Callable[[Sequence[int], int], nn.Module]


def of_timm(name: str) -> Make:
    """What makes a model of timm, with random weights, for samples of a shape and a number of classes.

    Raises:
        ValueError: there is no such model; a near name is suggested.
    """
    # by name: pyright would read the 400 modules of an `import`
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}{meant(name, timm.list_models())}; timm.list_models() has all")

    def make(shape: Sequence[int], classes: int) -> nn.Module:
        if len(shape) != 3:
            raise ValueError(f"timm:{name} takes images, and a sample of these data is of shape {tuple(shape)}")
        known: Any = timm.models.get_pretrained_cfg(name)
        settings: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
        if known is not None and known.fixed_input_size:
            settings["img_size"] = tuple(shape[1:])
        return timm.create_model(name, **settings)

    return make


def of_user(name: str) -> Make:
    """What makes the model that "MODULE:FACTORY" names, each time anew.

    Raises:
        ValueError: there is no such thing, or its module cannot be imported.
    """
    try:
        with drawn_from(0):  # a module that is made while it is imported has the same weights in every process
            found = named(name)
    except UsageError as error:
        raise ValueError(str(error)) from None

    def make(shape: Sequence[int], classes: int) -> nn.Module:
        if isinstance(found, nn.Module):
            return copy.deepcopy(found)
        offered = {"num_classes": classes, "in_chans": shape[0], "input_shape": tuple(shape)}
        try:
            return made(name, found, taken_by(found, offered))
        except UsageError as error:
            raise ValueError(str(error)) from None

    return make


def taken_by(function: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """The keywords of those offered that a function takes; of one that takes any keyword, the number of classes.

    Example:
        >>> taken_by(lambda num_classes, width=3: None, {"num_classes": 10, "in_chans": 3})
        {'num_classes': 10}
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    any_word = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {
        key: value
        for key, value in offered.items()
        if (key in parameters and parameters[key].kind is not inspect.Parameter.POSITIONAL_ONLY)
        or (any_word and key == "num_classes")
    }


def checked(name: str, make: Make) -> Callable[[Sequence[int], int, Design], nn.Module]:
    """The same, with a look at whether the network takes these samples and has an output for every class."""

    def build(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
        del recipe
        network = make(shape, classes)
        try:
            with calling(network):
                found = network(torch.zeros(2, *shape))
        except Exception as error:  # whatever its forward raises
            told = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{name} does not take samples of shape {tuple(shape)} ({type(error).__name__}: {told}); images in "
                "folders get another size by --image-size"
            ) from error
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != (2, classes):
            what = f"outputs {tuple(found.shape[1:])}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(
                f"{name} gives {what} for a sample, and these data have {classes} classes: it must give ({classes},); "
                "a factory is told so if it takes num_classes"
            )
        return network

    return build

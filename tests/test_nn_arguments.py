"""What the networks and layers take as sizes, names and indices, and what they say of those that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convexnet as cx
from convexnet import initialise as distributions
from convexnet import zoo as typed_zoo

# arguments of other types than the declared ones are what is tested here
own: Any = cx.nn
zoo: Any = typed_zoo
FICNN, ICRNN, PICNN, ConvFICNN, ConvPICNN = own.FICNN, own.ICRNN, own.PICNN, own.ConvFICNN, own.ConvPICNN
ConvexConv2d, ConvexLinear, FreeHead = own.ConvexConv2d, own.ConvexLinear, own.FreeHead
IMAGE = (1, 6, 6)
PLAIN, EXAMPLE = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2)

# --- what is accepted alike ------------------------------------------------------------------------------------------

SAME: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "one width": (lambda: FICNN(2, 5), lambda: FICNN(2, (5,))),
    "a list": (lambda: FICNN(2, [5, 4]), lambda: FICNN(2, (5, 4))),
    "an array": (lambda: FICNN(2, np.array([5, 4])), lambda: FICNN(2, (5, 4))),
    "a tensor": (lambda: FICNN(2, torch.tensor([5, 4])), lambda: FICNN(2, (5, 4))),
    "an iterator": (lambda: FICNN(2, (w for w in (5, 4))), lambda: FICNN(2, (5, 4))),
    "numbers of numpy": (lambda: FICNN(np.int64(2), (np.int32(5),), np.uint8(3)), lambda: FICNN(2, (5,), 3)),
    "no layer": (lambda: FICNN(2, []), lambda: FICNN(2, ())),
    "a rank of numpy": (lambda: FICNN(2, 5, quadratic=np.int64(1)), lambda: FICNN(2, 5, quadratic=1)),
    "one index": (lambda: FICNN(2, 5, monotone=1), lambda: FICNN(2, 5, monotone=[1])),
    "a list of booleans": (lambda: FICNN(3, 5, monotone=[True, False, False]), lambda: FICNN(3, 5, monotone=[0])),
    "partial": (lambda: PICNN(2, 3, 5, x_hidden=4), lambda: PICNN(2, 3, (5,), x_hidden=(4,))),
    "recurrent": (lambda: ICRNN(2, 5), lambda: ICRNN(2, (5,))),
    "convolutional": (lambda: ConvFICNN(list(IMAGE), [[2, 3]], 5), lambda: ConvFICNN(IMAGE, [(2, 3)], (5,))),
    "convolutional and partial": (
        lambda: ConvPICNN(IMAGE, np.array(IMAGE), [(np.int64(2), 3)], np.int64(5)),
        lambda: ConvPICNN(IMAGE, IMAGE, [(2, 3)], (5,)),
    ),
    "a norm of one dimension": (lambda: own.BatchNormAlong(3, 1), lambda: own.BatchNormAlong(np.int64(3), [1])),
    "a padding by name": (lambda: ConvexConv2d(1, 2, 3, padding="same"), lambda: ConvexConv2d(1, 2, 3, padding="same")),
    "a layer": (lambda: ConvexLinear(np.int64(2), np.int64(3)), lambda: ConvexLinear(2, 3)),
    "columns by a mask": (
        lambda: ConvexLinear(2, 3, columns=np.array([False, True])),
        lambda: ConvexLinear(2, 3, columns=[1]),
    ),
    "a kernel": (lambda: ConvexConv2d(1, 2, np.int64(3)), lambda: ConvexConv2d(1, 2, (3, 3))),
    "a multilayer perceptron": (lambda: zoo.MLP(np.int64(4), 2, 5), lambda: zoo.MLP(4, 2, (5,))),
    "one block": (lambda: zoo.DenseNet(2, np.int64(3)), lambda: zoo.DenseNet((2,), 3)),
}


def described(model: nn.Module) -> list[Any]:
    """Everything that a model is, but for the values of its weights."""
    settings = [
        {k: v for k, v in vars(module).items() if isinstance(v, (int, tuple, str))} for module in model.modules()
    ]
    buffers = [buffer.tolist() for name, buffer in model.named_buffers() if name.endswith("columns")]
    return [str(model), settings, buffers, [(name, tensor.shape) for name, tensor in model.state_dict().items()]]


@pytest.mark.parametrize("name", SAME)
def test_sizes_are_read_alike(name: str) -> None:
    one, other = SAME[name]
    assert described(one()) == described(other())


def test_what_numpy_gave_can_be_saved(tmp_path: Any) -> None:
    net = FICNN(np.int64(2), np.array([3]), np.int64(1), quadratic=np.int64(1))
    cx.save(net, tmp_path / "net.safetensors")
    y = torch.randn(4, 2)
    assert torch.equal(cx.load(tmp_path / "net.safetensors")(y), net(y))


# --- what is wrong, in words -----------------------------------------------------------------------------------------

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "FICNN": lambda **settings: FICNN(2, **{"hidden": 3, **settings}),
    "PICNN": lambda **settings: PICNN(2, 2, **{"hidden": 3, **settings}),
    "ICRNN": lambda **settings: ICRNN(2, **{"hidden": 3, **settings}),
    "ConvFICNN": lambda **settings: ConvFICNN(IMAGE, [(2, 3)], **{"hidden": 3, **settings}),
    "ConvPICNN": lambda **settings: ConvPICNN(IMAGE, IMAGE, [(2, 3)], **{"hidden": 3, **settings}),
}

EVERYWHERE: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a width of zero": ({"hidden": 0}, ValueError, "hidden must be an integer of at least 1, not 0"),
    "a negative width": ({"hidden": (3, -2)}, ValueError, r"hidden\[1\] must be an integer of at least 1, not -2"),
    "half a unit": ({"hidden": (2.5,)}, ValueError, r"hidden\[0\] must be an integer of at least 1, not 2\.5"),
    "a float that is whole": ({"hidden": 16.0}, ValueError, r"hidden must be .*, not 16\.0: write 16"),
    "a boolean width": ({"hidden": (True,)}, ValueError, r"hidden\[0\] must be an integer of at least 1, not True"),
    "a word for widths": ({"hidden": "16"}, TypeError, r"hidden must be an integer or a sequence .*, as \(16, 16\)"),
    "no widths": ({"hidden": None}, TypeError, "hidden must be an integer or a sequence of integers"),
    "no outputs": ({"out_features": 0}, ValueError, "out_features must be an integer of at least 1, not 0"),
    "a mistyped activation": (
        {"activation": "rleu"},
        ValueError,
        r"unknown activation 'rleu' \(did you mean 'relu'\?\)",
    ),
    "capitals": ({"activation": "LeakyReLU"}, ValueError, r"did you mean 'leaky_relu'\?"),
    "an activation unlike any": (
        {"activation": "tanh"},
        ValueError,
        r"unknown activation 'tanh': use relu, leaky_relu",
    ),
    "a class": ({"activation": nn.ReLU}, TypeError, r"not the class ReLU: write nn\.ReLU\(\)"),
    "a function": ({"activation": torch.relu}, TypeError, "must be a name or an nn.Module"),
    "a mistyped constraint": (
        {"constraint": "sofplus"},
        ValueError,
        r"unknown constraint 'sofplus' \(did you mean 'softplus'\?\): softplus, exp, square compute",
    ),
    "no constraint": ({"constraint": None}, ValueError, "unknown constraint None: softplus, exp, square"),
    "a list of constraints": ({"constraint": ["clip"]}, ValueError, r"unknown constraint \['clip'\]"),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_network_names_what_is_wrong(name: str, network: str) -> None:
    settings, kind, words = EVERYWHERE[name]
    with pytest.raises(kind, match=words):
        NETWORKS[network](**settings)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a rank that is no integer": (
        lambda: FICNN(2, 3, quadratic=1.0),
        ValueError,
        r"quadratic is the rank of A, an integer of at least 0 .*, not 1\.0: it says how many rows A has",
    ),
    "a rank that is true": (lambda: PICNN(2, 2, 3, quadratic=True), ValueError, "quadratic is the rank of A"),
    "no features": (lambda: FICNN(2.0), ValueError, r"in_features must be .*, not 2\.0: write 2"),
    "x without features": (lambda: PICNN(-1, 2), ValueError, "x_features must be an integer of at least 1, not -1"),
    "a width of x": (lambda: PICNN(1, 2, 3, x_hidden=(0,)), ValueError, r"x_hidden\[0\] must be"),
    "the activation of x": (lambda: PICNN(1, 2, 3, x_activation=torch.tanh), TypeError, "must be a name or an nn"),
    "its name": (lambda: PICNN(1, 2, 3, x_activation="sofplus"), ValueError, r"did you mean 'softplus'\?"),
    "monotone in halves": (lambda: FICNN(2, 3, monotone=[0.5]), TypeError, "monotone must hold indices"),
    "monotone in words": (
        lambda: FICNN(2, 3, monotone="y"),
        TypeError,
        "monotone must be a tensor, an array or a list",
    ),
    "a mask too long": (
        lambda: FICNN(2, 3, monotone=[True, False, True]),
        ValueError,
        r"must have shape \(2,\), not \(3,\)",
    ),
    "no level": (lambda: ICRNN(2, ()), ValueError, "the number of hidden levels must be an integer of at least 1"),
    "outputs": (
        lambda: ICRNN(2, 3, outputs="lst"),
        ValueError,
        r"'all' or 'last', not 'lst' \(did you mean 'last'\?\)",
    ),
    "an image that is a number": (lambda: ConvFICNN(8, [(2, 3)]), ValueError, r"\(channels, height, width\) .* not 8"),
    "an image without channels": (lambda: ConvPICNN((6, 6), IMAGE, [(2, 3)]), ValueError, "x_image is .channels"),
    "one convolution": (lambda: ConvFICNN(IMAGE, 4), TypeError, "convolutions is a list with a Convolution or a tuple"),
    "channels alone": (lambda: ConvFICNN(IMAGE, [4, 8]), TypeError, r"convolutions\[0\] is a Convolution .* not 4"),
    "a convolution too long": (lambda: ConvFICNN(IMAGE, [(2, 3, 1, 1, 1)]), TypeError, r"convolutions\[0\] is a Conv"),
    "a stride of zero": (
        lambda: ConvFICNN(IMAGE, [(2, 3, 0)]),
        ValueError,
        r"convolutions\[0\]\.stride must be .* not 0",
    ),
    "a negative padding": (
        lambda: ConvFICNN(IMAGE, [(2, 3, 1, -1)]),
        ValueError,
        r"\.padding must be an integer of at least 0",
    ),
    "three kernels": (lambda: ConvFICNN(IMAGE, [(2, (3, 3, 3))]), ValueError, r"\.kernel is one size .* or a pair"),
    "a kernel in words": (
        lambda: ConvexConv2d(1, 2, "same"),
        TypeError,
        "kernel_size must be an integer or a sequence",
    ),
    "a mistyped padding": (
        lambda: ConvexConv2d(1, 2, 3, padding="sam"),
        ValueError,
        r"unknown padding 'sam' \(did you mean 'same'",
    ),
    "a projected constraint": (lambda: ConvexLinear(2, 3, constraint="clip"), ValueError, r"cx\.constrain"),
    "a mistyped constraint": (lambda: ConvexLinear(2, 3, constraint="squre"), ValueError, r"did you mean 'square'\?"),
    "a weight of another shape": (
        lambda: setattr(ConvexLinear(2, 3), "weight", np.ones((3, 3))),
        ValueError,
        r"the weight of this ConvexLinear has shape \(3, 2\), not \(3, 3\)",
    ),
    "a weight in words": (
        lambda: setattr(ConvexLinear(2, 3), "weight", "ones"),
        TypeError,
        "the weight must be a tensor",
    ),
    "no channels": (lambda: own.PooledSum(0), ValueError, "channels must be an integer of at least 1, not 0"),
    "features in words": (lambda: own.Affine("3"), ValueError, "features must be an integer"),
    "the batch for features": (lambda: own.BatchNormAlong(3, dims=0), ValueError, "dimension 0, the batch"),
    "dimensions in words": (lambda: own.Affine(3, dims="last"), TypeError, r"dims must be a dimension or a sequence"),
    "a mistyped method": (
        lambda: cx.constrain(PLAIN, EXAMPLE, "clp"),
        ValueError,
        r"unknown method 'clp' \(did you mean 'clip'",
    ),
    "a list of methods": (lambda: cx.constrain(PLAIN, EXAMPLE, ["clip"]), ValueError, r"unknown method \['clip'\]"),  # pyright: ignore
    "a mistyped norm": (
        lambda: cx.convexify(PLAIN, EXAMPLE, norm="btch"),
        ValueError,
        r"norm must be .* \(did you mean 'batch'\?\)",
    ),
    "a mistyped start": (lambda: cx.convexify(PLAIN, EXAMPLE, init="papr"), ValueError, r"did you mean 'paper'\?"),
    "a mistyped distribution": (lambda: distributions.moments("sofplus"), ValueError, r"did you mean 'softplus'\?"),
    "a head": (lambda: FreeHead(4, "3"), ValueError, "out_features must be an integer"),
    "a perceptron": (lambda: zoo.MLP(4, 2, (8, 0)), ValueError, r"hidden\[1\] must be at least 1, not 0"),
    "a perceptron in words": (lambda: zoo.MLP(4, 2, "8"), TypeError, "hidden must be an integer or a sequence"),
    "a mistyped activation": (lambda: zoo.AllConv(activation="leakyrelu"), ValueError, r"did you mean 'leaky_relu'\?"),
    "a mistyped table": (
        lambda: zoo.AllConv(table="papr"),
        ValueError,
        r"unknown table 'papr' \(did you mean 'paper'\?\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str) -> None:
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        call()

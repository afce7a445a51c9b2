"""All-CNN-C, the network of convolutions only of Springenberg et al. 2015, and the variant with BatchNorm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from torch import Tensor, nn

from convexnet.choices import ActivationName
from convexnet.errors import meant
from convexnet.zoo.parts import activation_named, require_images, require_positive, with_keras_defaults


class Row(NamedTuple):
    """One row of a layer table: dropout of what comes in, a convolution, its activation, and where BatchNorm may be."""

    kernel: int
    channels: int | None
    """None: as many as classes."""
    stride: int = 1
    padding: int = 0
    dropout: float = 0.0
    norm: Literal["before", "after"] | None = None
    """Before or after the activation."""


class Table(NamedTuple):
    """A layer table, and the smallest image that leaves a pixel in every layer."""

    rows: tuple[Row, ...]
    least: int


TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "paper": Table(
            (
                Row(3, 96, padding=1, dropout=0.2, norm="before"),
                Row(3, 96, padding=1, norm="before"),
                Row(3, 96, stride=2, padding=1, norm="before"),
                Row(3, 192, padding=1, dropout=0.5, norm="before"),
                Row(3, 192, padding=1, norm="before"),
                Row(3, 192, stride=2, padding=1, norm="before"),
                Row(3, 192, dropout=0.5, norm="before"),
                Row(1, 192, norm="before"),
                Row(1, None),
            ),
            # Two halvings, rounded up, must leave 3 pixels for the convolution without padding.
            least=9,
        ),
        "published": Table(
            (
                Row(3, 96, padding=1),
                Row(3, 96, padding=1, norm="after"),
                Row(3, 96, stride=2, padding=1),
                Row(3, 192, padding=1, dropout=0.5, norm="after"),
                Row(3, 192, padding=1),
                Row(3, 192, stride=2, padding=1, norm="after"),
                Row(3, 192, padding=1, dropout=0.5),
                Row(1, 192, norm="after"),
                Row(1, None, stride=2),
            ),
            least=1,
        ),
    }
)


class AllConv(nn.Module):
    """All-CNN-C: nine convolutions and a global average, images (B, in_channels, H, W) -> logits (B, classes).

    | layer        | kernel        | channels | stride | side, from 32 | dropout of its input |
    |--------------|---------------|----------|--------|---------------|----------------------|
    | conv1        | 3             | 96       | 1      | 32            | 20 %                 |
    | conv2        | 3             | 96       | 1      | 32            |                      |
    | conv3        | 3             | 96       | 2      | 16            |                      |
    | conv4, conv5 | 3             | 192      | 1      | 16            | 50 % (conv4)         |
    | conv6        | 3             | 192      | 2      | 8             |                      |
    | conv7        | 3, no padding | 192      | 1      | 6             | 50 %                 |
    | conv8        | 1             | 192      | 1      | 6             |                      |
    | conv9        | 1             | classes  | 1      | 6             |                      |
    | average      | 6 x 6         | classes  |        | 1             |                      |

    1,369,738 parameters for three colours and ten classes. An activation follows every convolution but the last. **The
    paper's table has one there too** ("1 × 1 conv. 10 ReLU"); `last_activation=True` adds it. It is off because the
    paper states no initialisation: with PyTorch's, which is used here, the images hardly move the logits at first, so
    that a ReLU of a class whose bias is negative, as for about half of them, is zero for every image and gets no
    gradient.

    The paper does not mention padding; only a seventh convolution without it gives the 6 x 6 that the table averages
    over. Images of another size are averaged over what is left of them.

    Args:
        classes: logits.
        in_channels: colours of the images.
        norm: BatchNorm between each of the eight hidden convolutions and its activation (not in the paper).
        dropout: the dropout of the table; False leaves it out.
        first: channels of the first convolution; 192 in the convex network of the published code.
        width: times the channels of the other hidden convolutions, rounded down: 0.25 with `first=24` is a quarter of
            the network, with a fifteenth of its work.
        activation: relu, elu, celu, softplus or leaky_relu.
        last_activation: whether an activation follows the last convolution too, before the average.
        table: "paper", or "published" for the layers of `allconv_published`, where `norm=True` means its four
            BatchNorms.

    Raises:
        TypeError, ValueError: wrong arguments; and, when called, images of other channels or below 9 x 9 pixels.

    Source: Springenberg et al. 2015 (arXiv 1412.6806), table 1 (model C), table 2 (All-CNN-C) and section 3.1 (dropout
    of the input and after each layer that replaces pooling).

    Example:
        >>> import torch
        >>> model = AllConv()
        >>> sum(p.numel() for p in model.parameters())
        1369738
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int = 10,
        in_channels: int = 3,
        norm: bool = False,
        dropout: bool = True,
        first: int = 96,
        activation: ActivationName = "relu",
        *,
        last_activation: bool = False,
        table: Literal["paper", "published"] = "paper",
        width: float = 1.0,
    ) -> None:
        super().__init__()
        require_positive(classes=classes, in_channels=in_channels, first=first)
        classes, in_channels, first = int(classes), int(in_channels), int(first)
        if not isinstance(table, str) or table not in TABLES:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"unknown table {table!r}{meant(table, TABLES)}; the layer tables of AllConv are {', '.join(TABLES)}"
            )
        if not 1 / 96 <= width < float("inf"):
            raise ValueError(f"width must be at least 1/96, so that a channel is left, not {width}")
        rows, self.least = TABLES[table]
        self.in_channels = in_channels
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        below = in_channels
        for index, row in enumerate(rows, 1):
            hidden = None if row.channels is None else int(row.channels * width)
            channels = first if index == 1 else hidden or classes
            if dropout and row.dropout:
                layers[f"dropout{index}"] = nn.Dropout(row.dropout)
            layers[f"conv{index}"] = nn.Conv2d(below, channels, row.kernel, row.stride, row.padding)
            if norm and row.norm == "before":
                layers[f"norm{index}"] = nn.BatchNorm2d(channels)
            if index < len(rows) or last_activation:
                layers[f"activation{index}"] = activation_named(activation)
            if norm and row.norm == "after":
                layers[f"norm{index}"] = nn.BatchNorm2d(channels)
            below = channels
        layers["average"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        self.layers = nn.Sequential(layers)

    def forward(self, images: Tensor) -> Tensor:
        require_images(images, channels=self.in_channels, least=self.least, network="AllConv")
        return self.layers(images)


def allconv_published(
    classes: int = 10,
    *,
    in_channels: int = 3,
    dropout: bool = True,
    first: int = 96,
    activation: ActivationName = "relu",
    last_activation: bool = True,
) -> AllConv:
    """Return the AllConv with BatchNorm of the published code, images (B, in_channels, H, W) -> logits (B, classes).

    Its convolutions differ from the paper's in two places: the seventh is padded (8 x 8), and the last has stride 2, so
    that the average is over 4 x 4. BatchNorm follows the *activation* of convolutions 2, 4, 6 and 8; dropout of 50 %
    precedes convolutions 4 and 7, and the input has none. The last convolution has its activation, which after
    BatchNorm does not start out dead. Glorot-uniform weights, zero biases and Keras's settings of BatchNorm. 1,371,082
    parameters for three colours and ten classes. (Keras pads a convolution of stride 2 at the far edges only, which
    shifts its grid by a pixel; here both edges are padded.)

    Args:
        classes, in_channels, dropout, activation, last_activation: as for `AllConv`.
        first: channels of the first convolution: 96 in the ordinary network, 192 in the convex one.

    Source: the published code (see `convexnet.zoo.parts`).

    Example:
        >>> sum(p.numel() for p in allconv_published().parameters())
        1371082
        >>> allconv_published(first=192).layers.conv2.weight.shape
        torch.Size([96, 192, 3, 3])
    """
    model = AllConv(
        classes,
        in_channels,
        norm=True,
        dropout=dropout,
        first=first,
        activation=activation,
        last_activation=last_activation,
        table="published",
    )
    with_keras_defaults(model)
    return model

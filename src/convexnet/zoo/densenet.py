"""Densely connected networks for small images (Huang et al. 2017); torchvision's are for images of 224 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexnet.choices import ActivationName
from convexnet.zoo.parts import activation_named, as_widths, require_images, require_positive, with_keras_defaults


class DenseLayer(nn.Module):
    """Concatenates what it is given with what it makes of it: (B, c, H, W) -> (B, c + growth, H, W).

    BatchNorm, activation, 3 x 3 convolution; with a bottleneck, first BatchNorm, activation and a 1 x 1 convolution to
    4 x growth channels.

    Source: Huang et al. 2017, section 3, equation 2, "composite function" and "bottleneck layers".

    Example:
        >>> DenseLayer(8, growth=4, bottleneck=True, dropout=0.0, activation="relu")(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 12, 5, 5])
    """

    def __init__(
        self, channels: int, *, growth: int, bottleneck: bool, dropout: float, activation: ActivationName
    ) -> None:
        super().__init__()
        kernels = {1: 4 * growth, 3: growth} if bottleneck else {3: growth}
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, (kernel, width) in enumerate(kernels.items(), 1):
            layers[f"norm{index}"] = nn.BatchNorm2d(channels)
            layers[f"activation{index}"] = activation_named(activation)
            layers[f"conv{index}"] = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
            if dropout:
                layers[f"dropout{index}"] = nn.Dropout(dropout)
            channels = width
        self.new = nn.Sequential(layers)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features, self.new(features)], 1)


def transition(channels: int, width: int, *, dropout: float, activation: ActivationName) -> nn.Sequential:
    """What stands between two blocks: (B, channels, H, W) -> (B, width, ⌊H/2⌋, ⌊W/2⌋).

    BatchNorm, activation, 1 x 1 convolution, 2 x 2 average.

    Source: Huang et al. 2017, section 3, "pooling layers"; the activation is in the authors' code.

    Example:
        >>> transition(8, 4, dropout=0.0, activation="relu")(torch.zeros(2, 8, 6, 6)).shape
        torch.Size([2, 4, 3, 3])
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        norm=nn.BatchNorm2d(channels),
        activation=activation_named(activation),
        conv=nn.Conv2d(channels, width, 1, bias=False),
    )
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["average"] = nn.AvgPool2d(2)
    return nn.Sequential(layers)


class DenseNet(nn.Module):
    """A densely connected network, images (B, in_channels, H, W) -> logits (B, classes).

    | layer       | what it is                                                  | side, from 32        |
    |-------------|-------------------------------------------------------------|----------------------|
    | first       | 3 x 3 convolution, `first` channels                         | 32                   |
    | block i     | `blocks[i]` layers, each adding `growth` channels           | 32, 16, 8, ...       |
    | transition  | between blocks: 1 x 1 convolution to θ c channels, average  | 16, 8, ...           |
    | end         | BatchNorm, activation, global average, linear layer         | 1                    |

    Convolutions have no bias. Their weights are normal with variance 2 / (k² c_out), whatever the activation: He's
    initialisation, which the paper names, in the form of the authors' code. The linear layer keeps PyTorch's default
    weights, with zero bias.

    Args:
        blocks: layers in each block.
        growth: channels that each layer adds (k).
        classes: logits.
        in_channels: colours of the images.
        first: channels of the first convolution.
        bottleneck: 1 x 1 convolutions inside the layers (DenseNet-B).
        compression: θ: a transition keeps ⌊θ c⌋ of c channels (DenseNet-C below 1).
        transition_channels: a fixed number of channels after every transition, instead of compression.
        dropout: share of elements dropped after every convolution but the first; the paper takes 0.2 without data
            augmentation.
        pooled: side of the average at the end: 1 is global, 2 leaves 2 x 2 averages for each channel.
        activation: relu, elu, celu, softplus or leaky_relu.

    Raises:
        TypeError, ValueError: wrong arguments; and, when called, images of other channels, or smaller than
            pooled · 2^(blocks − 1) pixels.

    Source: Huang et al. 2017 (arXiv 1608.06993), section 3 ("implementation details") and table 2; BatchNorm and
    activation at the end, and dropout in the transitions, are in the authors' code.

    Example:
        >>> model = DenseNet((2, 2), growth=4, first=8)
        >>> model(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        blocks: int | Sequence[int],
        growth: int,
        classes: int = 10,
        *,
        in_channels: int = 3,
        first: int = 16,
        bottleneck: bool = False,
        compression: float = 1.0,
        transition_channels: int | None = None,
        dropout: float = 0.0,
        pooled: int = 1,
        activation: ActivationName = "relu",
    ) -> None:
        super().__init__()
        require_positive(growth=growth, classes=classes, in_channels=in_channels, first=first, pooled=pooled)
        growth, classes, in_channels, first, pooled = map(int, (growth, classes, in_channels, first, pooled))
        if transition_channels is not None:
            require_positive(transition_channels=transition_channels)
            transition_channels = int(transition_channels)
        counts = as_widths(blocks, "blocks")
        if not counts:
            raise ValueError("blocks is empty: give the number of layers of each block, as (12, 12, 12)")
        if not 0 < compression <= 1:
            raise ValueError(f"compression must be in (0, 1], not {compression}: the share of channels that is kept")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}: the share of elements that is dropped")
        self.in_channels = in_channels
        self.least = pooled * 2 ** (len(counts) - 1)
        layers: OrderedDict[str, nn.Module] = OrderedDict(first=nn.Conv2d(in_channels, first, 3, padding=1, bias=False))
        channels = first
        for number, count in enumerate(counts, 1):
            block: OrderedDict[str, nn.Module] = OrderedDict()
            for index in range(1, count + 1):
                block[f"layer{index}"] = DenseLayer(
                    channels, growth=growth, bottleneck=bottleneck, dropout=dropout, activation=activation
                )
                channels += growth
            layers[f"block{number}"] = nn.Sequential(block)
            if number < len(counts):
                width = transition_channels or int(compression * channels)
                if width < 1:
                    raise ValueError(f"compression {compression} keeps none of {channels} channels")
                layers[f"transition{number}"] = transition(channels, width, dropout=dropout, activation=activation)
                channels = width
        layers["norm"] = nn.BatchNorm2d(channels)
        layers["activation"] = activation_named(activation)
        layers["average"] = nn.AdaptiveAvgPool2d(pooled)
        layers["flatten"] = nn.Flatten()
        self.features = nn.Sequential(layers)
        self.head = nn.Linear(channels * pooled**2, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        require_images(images, channels=self.in_channels, least=self.least, network="DenseNet")
        return self.head(self.features(images))


def densenet40(
    classes: int = 10,
    *,
    in_channels: int = 3,
    first: int = 16,
    dropout: float = 0.0,
    activation: ActivationName = "relu",
) -> DenseNet:
    """Return DenseNet of depth 40 and growth 12: three blocks of 12 layers, no bottleneck, no compression.

    Channels 16 -> 160 -> 304 -> 448; depth 40 counts the first convolution, 36 layers, two transitions and the head.
    1,019,722 parameters (the paper's table 2 has 1.0M). Sivaprasad et al. 2021 state growth 12 and no depth: this is
    the first network of that table.

    Source: Huang et al. 2017, table 2, first row of DenseNet (k = 12).

    Example:
        >>> sum(p.numel() for p in densenet40().parameters())
        1019722
    """
    return DenseNet(
        (12, 12, 12), 12, classes, in_channels=in_channels, first=first, dropout=dropout, activation=activation
    )


def densenet_bc100(
    classes: int = 10,
    *,
    in_channels: int = 3,
    first: int = 24,
    dropout: float = 0.0,
    activation: ActivationName = "relu",
) -> DenseNet:
    """Return DenseNet-BC of depth 100 and growth 12: three blocks of 16 bottleneck layers, compression 0.5.

    Channels 24 -> 216 | 108 -> 300 | 150 -> 342. 769,162 parameters (the paper's table 2 has 0.8M).

    Source: Huang et al. 2017, table 2, first row of DenseNet-BC (k = 12).

    Example:
        >>> sum(p.numel() for p in densenet_bc100().parameters())
        769162
    """
    return DenseNet(
        (16, 16, 16),
        12,
        classes,
        in_channels=in_channels,
        first=first,
        bottleneck=True,
        compression=0.5,
        dropout=dropout,
        activation=activation,
    )


def densenet_published(
    classes: int = 10,
    *,
    in_channels: int = 3,
    first: int = 80,
    dropout: float = 0.2,
    activation: ActivationName = "relu",
) -> DenseNet:
    """Return the DenseNet of the published code: four blocks of six layers, growth 40, dropout 0.2.

    Channels 80 -> 320 | 40 -> 280 | 40 -> 280 | 40 -> 280, sides 32, 16, 8, 4. Every transition leaves 40 channels, and
    the average at the end is over 2 x 2 of 4 x 4, so that the head has 1120 inputs. The first convolution has 80
    channels, twice the growth, in the ordinary network as in the convex one. Glorot-uniform weights, zero bias, Keras's
    settings of BatchNorm.

    Source: the published code (see `convexnet.zoo.parts`).

    Example:
        >>> densenet_published().head.in_features
        1120
    """
    model = DenseNet(
        (6, 6, 6, 6),
        40,
        classes,
        in_channels=in_channels,
        first=first,
        transition_channels=40,
        dropout=dropout,
        pooled=2,
        activation=activation,
    )
    with_keras_defaults(model)
    return model


def densenet_small(
    classes: int = 10,
    *,
    in_channels: int = 3,
    first: int = 8,
    dropout: float = 0.0,
    activation: ActivationName = "relu",
) -> DenseNet:
    """Return a DenseNet-BC of two blocks with two layers each, growth 4, for tests and quick trials.

    Example:
        >>> sum(p.numel() for p in densenet_small().parameters())
        3730
    """
    return DenseNet(
        (2, 2),
        4,
        classes,
        in_channels=in_channels,
        first=first,
        bottleneck=True,
        compression=0.5,
        dropout=dropout,
        activation=activation,
    )

"""EfficientNet-B0 (Tan & Le 2019), and a convex counterpart without products of features."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor, nn

from convexnet.choices import ActivationName, InitName, MethodName, NormName
from convexnet.errors import meant
from convexnet.nn import PooledSum, removed
from convexnet.zoo.parts import DropPath, require_images, require_positive, require_share
from convexnet.zoo.variants import certified, require_variant


class Stage(NamedTuple):
    """One row of the table of the paper, for blocks of one kind."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    blocks: int


STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
"""Stages 2 to 8 of table 1 of Tan & Le 2019."""

GATES: dict[str, Callable[[nn.Module], nn.Module]] = {"sum": PooledSum.like, "removed": removed}
"""What the certified variant has in the place of squeeze-and-excitation."""


def scaled(channels: int, width: float) -> int:
    """Channels times a width, rounded to a multiple of 8, but not below nine tenths of the product.

    Source: the authors' code of MobileNet and EfficientNet.

    Example:
        >>> scaled(32, 1.0), scaled(16, 0.25), scaled(24, 0.5)
        (32, 8, 16)
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def convolved(
    channels: int, width: int, kernel: int, stride: int = 1, *, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Convolution without bias, BatchNorm and SiLU: (B, channels, H, W) -> (B, width, ⌈H/stride⌉, ⌈W/stride⌉)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        norm=nn.BatchNorm2d(width),
    )
    if activation:
        layers["activation"] = nn.SiLU()
    return nn.Sequential(layers)


class SqueezeExcitation(nn.Module):
    """Multiply each channel by a sigmoid of what an MLP makes of all channels' averages: (B, C, H, W) -> the same.

    A product of two functions of the input, and so **not convex**.

    Args:
        channels: C.
        hidden: units of the MLP.

    Source: Hu et al. 2018 (arXiv 1709.01507), equations 2 to 4, with SiLU.

    Example:
        >>> import torch
        >>> SqueezeExcitation(4, 2)(torch.ones(1, 4, 3, 3)).shape
        torch.Size([1, 4, 3, 3])
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.activation = nn.SiLU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, z: Tensor) -> Tensor:
        return z * self.gate(self.fc2(self.activation(self.fc1(self.average(z)))))


class InvertedBottleneck(nn.Module):
    """Expand, convolve each channel, gate, project, and add what came in where the shape allows it.

    (B, channels, H, W) -> (B, width, ⌈H/stride⌉, ⌈W/stride⌉).

    Source: Tan & Le 2019, section 4 (MBConv), after Sandler et al. 2018 (arXiv 1801.04381), table 1.
    """

    def __init__(self, channels: int, width: int, *, stage: Stage, stride: int, drop_path: float) -> None:
        super().__init__()
        inner = channels * stage.expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if stage.expansion > 1:
            layers["expand"] = convolved(channels, inner, 1)
        layers["depthwise"] = convolved(inner, inner, stage.kernel, stride, groups=inner)
        layers["gate"] = SqueezeExcitation(inner, max(1, channels // 4))
        layers["project"] = convolved(inner, width, 1, activation=False)
        self.branch = nn.Sequential(layers)
        self.drop = DropPath(drop_path)
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branch(x)
        return x + self.drop(branch) if self.adds else branch


class EfficientNet(nn.Module):
    """An EfficientNet, images (B, in_channels, H, W) -> logits (B, classes).

    | layer   | what it is                                                    | channels, B0 | side, from 224 |
    |---------|---------------------------------------------------------------|--------------|----------------|
    | first   | 3 x 3 convolution of stride 2, BatchNorm, SiLU                | 32           | 112            |
    | stages  | `InvertedBottleneck`, 16 of them in seven stages (`STAGES`)   | 16 ... 320   | 112 ... 7      |
    | last    | 1 x 1 convolution, BatchNorm, SiLU                            | 1280         | 7              |
    | head    | global average, dropout, linear layer                         | classes      | 1              |

    Weights are initialised as in the authors' code: convolutions normal with variance 2 / (k² c_out / groups).

    Args:
        classes: logits.
        in_channels: colours of the images.
        width: times the channels of every layer, in multiples of 8; 1 is B0.
        depth: times the blocks of every stage, rounded up; 1 is B0.
        dropout: before the head.
        drop_path: share of the samples for which a branch is left out while training, rising linearly over the blocks.

    Raises:
        TypeError, ValueError: wrong arguments; and, when called, images of other channels.

    Source: Tan & Le 2019 (arXiv 1905.11946), table 1 and section 5.2 (dropout 0.2, drop-path 0.2).

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     model = EfficientNet(1000)
        >>> sum(p.numel() for p in model.parameters())
        5288548
    """

    def __init__(
        self,
        classes: int = 10,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        depth: float = 1.0,
        dropout: float = 0.2,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        require_positive(classes=classes, in_channels=in_channels)
        require_share(dropout, "dropout")
        require_share(drop_path, "drop_path")
        for name, factor in (("width", width), ("depth", depth)):
            if not 0 < factor < float("inf"):
                raise ValueError(f"{name} must be a positive number, not {factor!r}")
        self.in_channels = in_channels
        channels = scaled(32, width)
        counts = [-int(-stage.blocks * depth // 1) for stage in STAGES]
        layers: OrderedDict[str, nn.Module] = OrderedDict(first=convolved(in_channels, channels, 3, 2))
        done = 0
        for number, (stage, count) in enumerate(zip(STAGES, counts, strict=True), 1):
            blocks: list[nn.Module] = []
            for index in range(count):
                stride = 1 if index else stage.stride
                share = drop_path * done / sum(counts)
                out = scaled(stage.channels, width)
                blocks.append(InvertedBottleneck(channels, out, stage=stage, stride=stride, drop_path=share))
                channels, done = out, done + 1
            layers[f"stage{number}"] = nn.Sequential(*blocks)
        layers["last"] = convolved(channels, 4 * channels, 1)
        layers["average"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["dropout"] = nn.Dropout(dropout)
        self.features = nn.Sequential(layers)
        self.head = nn.Linear(4 * channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.uniform_(self.head.weight, -(classes**-0.5), classes**-0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        require_images(images, channels=self.in_channels, least=1, network="EfficientNet")
        return self.head(self.features(images))


def efficientnet_b0(
    classes: int = 10,
    variant: Literal["ordinary", "certified"] = "ordinary",
    *,
    in_channels: int = 3,
    image: int = 64,
    width: float = 1.0,
    depth: float = 1.0,
    dropout: float = 0.2,
    drop_path: float = 0.2,
    gate: Literal["sum", "removed"] = "sum",
    activation: ActivationName = "elu",
    norm: NormName = "batch",
    method: MethodName = "exponentiate",
    init: InitName | None = "identity",
) -> EfficientNet:
    """Return EfficientNet-B0, ordinary or certified convex; with random weights, nothing is downloaded.

    - "ordinary": SiLU and squeeze-and-excitation; 5.3 million parameters for a thousand classes, and the layers of
      torchvision's `efficientnet_b0`.
    - "certified": what `cx.convexify` makes of it: a convex activation, and in the place of each gate, which multiplies
      features by functions of them, z + W pool(z) with W >= 0 (`nn.PooledSum`), or nothing.

    Args:
        classes, in_channels, width, depth, dropout, drop_path: as for `EfficientNet`.
        image: side of the images, in pixels, that the certified variant is made for; others it takes, too.
        gate: "sum" or "removed", in the place of a gate; of the certified variant alone.
        activation, norm, method, init: as for `cx.convexify`; of the certified variant alone.

    Raises:
        TypeError, ValueError: wrong arguments.

    Source: Tan & Le 2019 (arXiv 1905.11946), table 1; a convex one is the next aim of Singh 2022 (the report),
    section 6.

    Example:
        >>> import convexnet as cx, torch
        >>> small = dict(width=0.25, depth=0.3, image=16)
        >>> cx.certify(efficientnet_b0(10, variant="certified", **small), torch.zeros(2, 3, 16, 16)).convex
        True
    """
    require_variant(variant, ("ordinary", "certified"))
    if gate not in GATES:
        raise ValueError(f"unknown gate {gate!r}{meant(gate, GATES)}; a gate becomes one of {', '.join(GATES)}")
    network = EfficientNet(
        classes, in_channels=in_channels, width=width, depth=depth, dropout=dropout, drop_path=drop_path
    )
    if variant == "ordinary":
        return network
    return certified(
        network,
        (in_channels, image, image),
        activation=activation,
        norm=norm,
        method=method,
        init=init,
        replace={SqueezeExcitation: GATES[gate]},
    )

"""CycleMLP (Chen et al. 2022), the smallest of its family, B1, and its convex counterpart."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from convexnet.choices import ActivationName, InitName, MethodName, NormName
from convexnet.zoo.mixer import perceptron
from convexnet.zoo.parts import DropPath, as_widths, require_images, require_positive, require_share
from convexnet.zoo.variants import Variant, certified, require_variant

SPAN = 3
"""Positions that a `CycleFC` looks at, along its axis."""


class CycleFC(nn.Module):
    """A linear layer over channels whose channel c is read at a shifted position: features (B, C, H, W) -> the same.

    y[o, i, j] = b[o] + Σ_c W[o, c] x[c, i, j + δ(c)] along the width, or x[c, i + δ(c), j] along the height, with
    δ = 0, 1, −1, 0, 1, −1, ... over the channels, and zeros beyond the edge. The offsets are fixed, so that it is
    linear in x: a gather and a 1 x 1 convolution, for which the authors' code takes a deformable convolution.

    Args:
        channels: C.
        axis: "width" (the authors' kernel of 1 x 3) or "height" (3 x 1).

    Source: Chen et al. 2022 (arXiv 2107.10224), equations 3 and 4; the offsets are those of the authors' code.

    Example:
        >>> layer = CycleFC(3, "width")
        >>> _ = layer.mix.weight.data.copy_(torch.eye(3)[:, :, None, None]), layer.mix.bias.data.zero_()
        >>> layer(torch.tensor([1.0, 2, 3, 4]).expand(1, 3, 1, 4))[0, :, 0].tolist()
        [[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 0.0], [0.0, 1.0, 2.0, 3.0]]
    """

    offsets: Tensor

    def __init__(self, channels: int, axis: Literal["width", "height"]) -> None:
        super().__init__()
        self.axis = axis
        self.mix = nn.Conv2d(channels, channels, 1)
        reach = SPAN // 2
        self.register_buffer("offsets", (torch.arange(channels) + reach) % SPAN - reach, persistent=False)

    def extra_repr(self) -> str:
        return self.axis

    def forward(self, x: Tensor) -> Tensor:
        reach = SPAN // 2
        along = 3 if self.axis == "width" else 2
        margin = (reach, reach, 0, 0) if self.axis == "width" else (0, 0, reach, reach)
        places = torch.arange(x.shape[along], device=x.device) + reach + self.offsets[:, None]
        places = places[:, None, :] if self.axis == "width" else places[:, :, None]
        return self.mix(functional.pad(x, margin).gather(along, places.expand(x.shape)))


class SoftmaxBranches(nn.Module):
    """Weigh three branches, for each channel, by a softmax of what an MLP makes of their pooled sum. **Not convex.**

    Three tensors (B, H, W, C) -> (B, H, W, C).

    Source: Chen et al. 2022, the authors' code ("reweight"), after Hou et al. 2021 (ViP, arXiv 2106.12368), equation 6.

    Example:
        >>> one = torch.ones(1, 2, 2, 4)
        >>> SoftmaxBranches(4)(one, one, one).allclose(one)
        True
    """

    def __init__(self, channels: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        hidden = max(1, channels // 4)
        self.fc1 = nn.Linear(channels, hidden)
        self.activation = activation()
        self.fc2 = nn.Linear(hidden, 3 * channels)

    def forward(self, h: Tensor, w: Tensor, c: Tensor) -> Tensor:
        pooled = (h + w + c).mean((1, 2))
        weights = self.fc2(self.activation(self.fc1(pooled))).unflatten(1, (-1, 3)).softmax(2)[:, None, None]
        return h * weights[..., 0] + w * weights[..., 1] + c * weights[..., 2]


class ConstantBranches(nn.Module):
    """Weigh three branches, for each channel, by constants, a third each at first; convex for weights >= 0.

    Three tensors (B, H, W, C) -> (B, H, W, C).

    Example:
        >>> one = torch.ones(1, 2, 2, 4)
        >>> ConstantBranches(4)(one, one, one).allclose(one)
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, channels), 1 / 3))

    def forward(self, h: Tensor, w: Tensor, c: Tensor) -> Tensor:
        return h * self.weight[0] + w * self.weight[1] + c * self.weight[2]

    @classmethod
    def like(cls, branches: nn.Module) -> ConstantBranches:
        """Return one for the channels of a `SoftmaxBranches`: a factory for `convexify(replace=...)`.

        Example:
            >>> ConstantBranches.like(SoftmaxBranches(4)).weight.shape
            torch.Size([3, 4])
        """
        assert isinstance(branches, SoftmaxBranches)
        return cls(branches.fc1.in_features)


class CycleMixing(nn.Module):
    """Mix positions in three branches: along the height, along the width, and none; (B, H, W, C) -> the same."""

    def __init__(self, channels: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.mlp_c = nn.Linear(channels, channels, bias=False)
        self.sfc_h = CycleFC(channels, "width")  # the authors' name for their kernel of 1 x 3
        self.sfc_w = CycleFC(channels, "height")
        self.reweight: nn.Module = SoftmaxBranches(channels, activation)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        first = x.permute(0, 3, 1, 2)
        h, w = self.sfc_h(first).permute(0, 2, 3, 1), self.sfc_w(first).permute(0, 2, 3, 1)
        return self.proj(self.reweight(h, w, self.mlp_c(x)))


class CycleBlock(nn.Module):
    """Mix positions, then channels, each in a residual branch: (B, H, W, C) -> the same.

    Source: Chen et al. 2022, figure 3.
    """

    def __init__(self, channels: int, *, ratio: int, drop_path: float, activation: type[nn.Module]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.mixing = CycleMixing(channels, activation)
        self.drop1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.channel = perceptron(channels, ratio * channels, activation())
        self.drop2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop1(self.mixing(self.norm1(x)))
        return x + self.drop2(self.channel(self.norm2(x)))


class Halving(nn.Module):
    """A 3 x 3 convolution of stride 2 between two stages: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, width)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class CycleMLP(nn.Module):
    """A CycleMLP, images (B, in_channels, H, W) -> logits (B, classes).

    | layer    | what it is                                                     | B1, from 224 x 224   |
    |----------|----------------------------------------------------------------|----------------------|
    | patches  | 7 x 7 convolution of stride 4, padding 2                       | 64 channels, 56 x 56 |
    | stage 1  | `depths[0]` blocks                                             | two                  |
    | stage i  | 3 x 3 convolution of stride 2, then `depths[i]` blocks         | 128, 320, 512        |
    | norm     | LayerNorm                                                      |                      |
    | head     | average over positions, linear layer                           | classes              |

    A block has `CycleMixing` and an MLP over channels, both behind a LayerNorm.

    Args:
        classes: logits.
        in_channels: colours of the images.
        widths: channels of each stage.
        depths: blocks of each stage.
        ratio: hidden units of a channel MLP for each channel.
        drop_path: share of the samples for which a branch is left out while training, rising linearly from 0 in the
            first block to this in the last.
        activation: the class of the activations.

    Raises:
        TypeError, ValueError: wrong arguments; and, when called, images of other channels or below 3 x 3 pixels.

    Source: Chen et al. 2022 (arXiv 2107.10224), section 3 and table 1; the authors' code.

    Example:
        >>> CycleMLP(10, widths=(8, 16), depths=(1, 1))(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    exempt: tuple[str, ...] | None = None
    """Of the variant "report": names of parameters that its constraint leaves free, as regular expressions."""

    def __init__(
        self,
        classes: int = 10,
        *,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 4, 2),
        ratio: int = 4,
        drop_path: float = 0.0,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        require_positive(classes=classes, in_channels=in_channels, ratio=ratio)
        widths, depths = as_widths(widths, "widths"), as_widths(depths, "depths")
        require_share(drop_path, "drop_path")
        if not widths or len(widths) != len(depths):
            raise ValueError(f"widths and depths name the stages alike, not {len(widths)} and {len(depths)} of them")
        self.in_channels = in_channels
        self.patches = nn.Conv2d(in_channels, widths[0], 7, stride=4, padding=2)
        self.stages = nn.Sequential()
        done = 0
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            if number:
                stage["halving"] = Halving(widths[number - 1], width)
            for index in range(depth):
                share = drop_path * done / max(1, sum(depths) - 1)
                stage[f"block{index + 1}"] = CycleBlock(width, ratio=ratio, drop_path=share, activation=activation)
                done += 1
            self.stages.append(nn.Sequential(stage))
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], classes)
        for module in self.modules():
            # As the authors' code: the patches and what halves keep PyTorch's own values.
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        require_images(images, channels=self.in_channels, least=3, network="CycleMLP")
        features = self.stages(self.patches(images).permute(0, 2, 3, 1))
        return self.head(self.norm(features).mean((1, 2)))


def cyclemlp_b1(
    classes: int = 10,
    variant: Variant = "ordinary",
    *,
    in_channels: int = 3,
    image: int = 32,
    widths: Sequence[int] = (64, 128, 320, 512),
    depths: Sequence[int] = (2, 2, 4, 2),
    ratio: int = 4,
    drop_path: float = 0.0,
    activation: ActivationName = "elu",
    norm: NormName = "batch",
    method: MethodName = "exponentiate",
    init: InitName | None = "identity",
) -> CycleMLP:
    """Return CycleMLP-B1, ordinary, as the report's convex one, or certified convex.

    - "ordinary": LayerNorm, GELU, softmax weights of the branches; 15.2 million parameters for a thousand classes.
    - "report": the "IOC-CycleMLP" of the report's code: LayerNorm and the softmax stay, ELU for GELU. It is **not
      convex**: its certificate names the first LayerNorm, and `cx.changes` of its conversion lists the other places.
      Its constraint, by names of parameters, is `report_constraint(network)`. Exempt from it are the patches and, in
      the first block, the first norm, both `CycleFC` and the first layer that weighs the branches; `mlp_c` is not, for
      its name is misspelt in the report's code.
    - "certified": what `cx.convexify` makes of the ordinary one: BatchNorm or an affine map in the place of LayerNorm,
      a convex activation, constant branch weights (`ConstantBranches`).

    Args:
        classes, in_channels, widths, depths, ratio, drop_path: as for `CycleMLP`.
        image: side of the images, in pixels, that the certified variant is made for; others it takes, too.
        activation, norm, method, init: as for `cx.convexify`; of the certified variant alone.

    Raises:
        TypeError, ValueError: wrong arguments.

    Source: Chen et al. 2022 (arXiv 2107.10224), table 1, B1; Singh 2022 (the report), section 5.3, and its
    code (github.com/gsc2001/ConvexNet).

    Example:
        >>> import convexnet as cx
        >>> small = dict(widths=(6, 8), depths=(1, 1), image=16)
        >>> example = torch.zeros(2, 3, 16, 16)
        >>> cx.certify(cyclemlp_b1(10, variant="certified", **small), example).convex
        True
        >>> cx.certify(cyclemlp_b1(10, variant="report", **small), example).convex
        False
    """
    require_variant(variant, ("ordinary", "report", "certified"))
    report = variant == "report"
    network = CycleMLP(
        classes,
        in_channels=in_channels,
        widths=widths,
        depths=depths,
        ratio=ratio,
        drop_path=drop_path,
        activation=nn.ELU if report else nn.GELU,
    )
    if report:
        inside = r"norm1|mixing\.sfc_h\.mix|mixing\.sfc_w\.mix|mixing\.reweight\.fc1"
        network.exempt = (r"patches\.weight", rf"stages\.0\.block1\.({inside})\.weight")
    if variant == "certified":
        return certified(
            network,
            (in_channels, image, image),
            activation=activation,
            norm=norm,
            method=method,
            init=init,
            replace={SoftmaxBranches: ConstantBranches.like},
        )
    return network

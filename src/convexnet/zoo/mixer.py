"""MLP-Mixer (Tolstikhin et al. 2021) in the configuration of the report, and its convex counterpart."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from convexnet.choices import ActivationName, InitName, MethodName, NormName
from convexnet.zoo.parts import DropPath, require_images, require_positive, require_share
from convexnet.zoo.variants import Variant, certified, require_variant


def perceptron(features: int, hidden: int, activation: nn.Module) -> nn.Sequential:
    """Linear, activation, linear, over the last dimension: (B, ..., features) -> the same."""
    return nn.Sequential(
        OrderedDict(linear1=nn.Linear(features, hidden), activation=activation, linear2=nn.Linear(hidden, features))
    )


class MixerBlock(nn.Module):
    """Mix positions, then channels, each in a residual branch: tokens (B, N, C) -> (B, N, C).

    U = X + W₂ σ(W₁ norm(X)ᵀ)ᵀ over the N tokens of each channel; Y = U + W₄ σ(W₃ norm(U)) over the channels of each
    token.

    Source: Tolstikhin et al. 2021 (arXiv 2105.01601), equation 1.

    Example:
        >>> import torch
        >>> MixerBlock(9, 4, token_hidden=5, channel_hidden=6)(torch.zeros(2, 9, 4)).shape
        torch.Size([2, 9, 4])
    """

    def __init__(
        self,
        tokens: int,
        width: int,
        *,
        token_hidden: int,
        channel_hidden: int,
        drop_path: float = 0.0,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.token = perceptron(tokens, token_hidden, activation())
        self.drop1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.channel = perceptron(width, channel_hidden, activation())
        self.drop2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop1(self.token(self.norm1(x).transpose(1, 2)).transpose(1, 2))
        return x + self.drop2(self.channel(self.norm2(x)))


class Mixer(nn.Module):
    """An MLP-Mixer, images (B, in_channels, image, image) -> logits (B, classes).

    | layer       | what it is                                                          | shape, by default |
    |-------------|---------------------------------------------------------------------|-------------------|
    | patches     | convolution of kernel and stride `patch`                            | 64 tokens of 128  |
    | blocks      | `MixerBlock`: token MLP 64 -> 64 -> 64, channel MLP 128 -> 128 -> 128 | 64 tokens of 128  |
    | norm        | LayerNorm                                                           | 64 tokens of 128  |
    | head        | average over the tokens, linear layer                               | classes           |

    Args:
        classes: logits.
        in_channels: colours of the images.
        image: their side in pixels, a multiple of `patch`.
        patch: side of a patch.
        width: channels of a token.
        layers: how many blocks.
        token_hidden, channel_hidden: hidden units of the two MLPs of a block; of the tokens, one number for all blocks
            or, with `first_token_hidden`, another one in the first.
        first_token_hidden: of the first block; None: as in the others.
        drop_path: share of the samples for which a branch is left out while training, rising linearly from 0 in the
            first block to this in the last.
        activation: the class of the activations.

    Raises:
        TypeError, ValueError: wrong arguments; and, when called, images of another shape.

    Source: Tolstikhin et al. 2021 (arXiv 2105.01601), section 2; sizes of Singh 2022 (the report), section
    5.2.

    Example:
        >>> import torch
        >>> Mixer(10)(torch.zeros(2, 3, 72, 72)).shape
        torch.Size([2, 10])
    """

    exempt: tuple[str, ...] | None = None
    """Of the variant "report": names of parameters that its constraint leaves free, as regular expressions."""

    def __init__(
        self,
        classes: int = 10,
        *,
        in_channels: int = 3,
        image: int = 72,
        patch: int = 9,
        width: int = 128,
        layers: int = 4,
        token_hidden: int = 64,
        channel_hidden: int = 128,
        first_token_hidden: int | None = None,
        drop_path: float = 0.0,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        require_positive(classes=classes, in_channels=in_channels, image=image, patch=patch, width=width, layers=layers)
        require_positive(token_hidden=token_hidden, channel_hidden=channel_hidden)
        first = token_hidden if first_token_hidden is None else first_token_hidden
        require_positive(first_token_hidden=first)
        require_share(drop_path, "drop_path")
        if image % patch:
            raise ValueError(f"patches of {patch} pixels do not tile images of {image}: image is a multiple of patch")
        self.in_channels, self.image = in_channels, image
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.blocks = nn.Sequential(
            *(
                MixerBlock(
                    (image // patch) ** 2,
                    width,
                    token_hidden=token_hidden if index else first,
                    channel_hidden=channel_hidden,
                    drop_path=drop_path * index / max(1, layers - 1),
                    activation=activation,
                )
                for index in range(layers)
            )
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        require_images(images, channels=self.in_channels, least=self.image, network="Mixer")
        if max(images.shape[2:]) > self.image:
            raise ValueError(
                f"Mixer was built for images of {self.image} x {self.image} pixels, not {images.shape[2]} x "
                f"{images.shape[3]}: resize them, as nn.Upsample(size={self.image}, mode='bilinear') does, which is "
                "linear and non-negative and so stays convex"
            )
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def mixer(
    classes: int = 10,
    variant: Variant = "ordinary",
    *,
    in_channels: int = 3,
    image: int = 72,
    patch: int = 9,
    width: int = 128,
    layers: int = 4,
    token_hidden: int = 64,
    channel_hidden: int = 128,
    drop_path: float = 0.0,
    activation: ActivationName = "elu",
    norm: NormName = "batch",
    method: MethodName = "exponentiate",
    init: InitName | None = "identity",
) -> Mixer:
    """Return the MLP-Mixer of the report, ordinary, as the report's convex one, or certified convex.

    - "ordinary": LayerNorm and GELU, 0.2 million parameters.
    - "report": the "IOC-Mixer" of the report's code: LayerNorm stays, ELU for GELU, the token MLP of the first block
      twice as wide, no drop-path. It is **not convex**: its certificate names the first LayerNorm, and
      `cx.changes(cx.convexify(network, example))` lists them all. Its constraint, by names of parameters, is
      `report_constraint(network)`. Exempt from it are the patches and the *LayerNorm* of the first block's token
      branch, so that the first linear map is constrained, other than the report's text says.
    - "certified": what `cx.convexify` makes of the ordinary one: BatchNorm or an affine map in the place of LayerNorm,
      a convex activation. Train it with `cx.constrain(network, example).attach(optimizer)`.

    Args:
        classes, in_channels, image, patch, width, layers, token_hidden, channel_hidden, drop_path: as for `Mixer`.
        activation, norm, method, init: as for `cx.convexify`; of the certified variant alone.

    Raises:
        TypeError, ValueError: wrong arguments.

    Source: Singh 2022 (the report), section 5.2, and its code (github.com/gsc2001/ConvexNet).

    Example:
        >>> import convexnet as cx, torch
        >>> small = dict(image=6, patch=3, width=4, layers=2, token_hidden=4, channel_hidden=4)
        >>> example = torch.zeros(2, 3, 6, 6)
        >>> cx.certify(mixer(10, variant="certified", **small), example).convex
        True
        >>> cx.certify(mixer(10, variant="report", **small), example).convex
        False
    """
    require_variant(variant, ("ordinary", "report", "certified"))
    report = variant == "report"
    if report and drop_path:
        raise ValueError(f"the report's convex Mixer has no drop-path: leave drop_path at 0, not {drop_path}")
    network = Mixer(
        classes,
        in_channels=in_channels,
        image=image,
        patch=patch,
        width=width,
        layers=layers,
        token_hidden=token_hidden,
        channel_hidden=channel_hidden,
        first_token_hidden=2 * token_hidden if report else None,
        drop_path=drop_path,
        activation=nn.ELU if report else nn.GELU,
    )
    if report:
        network.exempt = (r"patches\.weight", r"blocks\.0\.norm1\.weight")
    if variant == "certified":
        shape = (in_channels, image, image)
        return certified(network, shape, activation=activation, norm=norm, method=method, init=init)
    return network

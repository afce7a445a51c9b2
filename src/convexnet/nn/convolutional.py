"""Convolutional input-convex networks: convolutions, then dense layers, and pass-through from the input at each.

An image y cannot be passed on as it is to a layer of another resolution. It goes along a path of its own, y_0 = y,
y_{i+1} = R_i * y_i + r_i, of affine convolutions with the strides of the network: free in sign, since y_i stays affine
in y, and on the grid of z_i at every layer. R_i starts as the average over its window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexnet.arrays import as_size, as_sizes
from convexnet.choices import ActivationName, ConstraintName
from convexnet.nn.activations import activation_of, free_activation_of
from convexnet.nn.grids import (
    Convolutions,
    convex_conv,
    flattened,
    gate,
    image_of,
    plain_conv,
    planned,
    reduction,
    require_image,
)
from convexnet.nn.layers import POSITIVE
from convexnet.nn.picnn import power_after
from convexnet.nn.steps import (
    FullStep,
    PartialStep,
    check_constraint,
    constrained,
    convex_linear,
    keep_nonnegative,
    start_free,
    start_full,
    start_partial,
)


class ConvFICNN(nn.Module):
    """Convolutional network that is convex in a whole image, of convolutions and then dense layers.

    z_{i+1} = g(W_i^(z) * z_i + W_i^(y) * y_i + b_i) with y_i the image on the grid of z_i (see `convexnet.nn.
    convolutional`); at the first dense layer z and y_i are flattened. W^(z) >= 0, the last layer is linear. Convexity
    is by construction or by projection, as for `FICNN`.

    Args:
        image: (C, H, W) of one sample.
        convolutions: for each convolutional layer, a `Convolution` or a tuple: channels, kernel, stride, padding.
        hidden: width of each dense hidden layer, or one width for one layer.
        out_features: outputs, each convex.
        activation, constraint: as for `FICNN`.
        passthrough: W^(y) in every layer; without it, in the first layer only.

    Shape: (B, C, H, W) -> (B, out_features).

    Raises:
        ValueError, TypeError: wrong arguments, a kernel that does not fit; and, when called, images of another shape.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), equation 2, with convolutions for its matrices.

    Example:
        >>> net = ConvFICNN((1, 8, 8), [(4, 4, 2), (8, 3)], hidden=(16,))
        >>> net(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1])
        >>> import convexnet as cx
        >>> print(cx.certify(net, torch.zeros(1, 1, 8, 8)).headline())
        CONVEX: ConvFICNN is convex in its input, for all parameters
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        convolutions: Convolutions,
        hidden: int | Sequence[int] = (),
        out_features: int = 1,
        activation: ActivationName | nn.Module = "softplus",
        passthrough: bool = True,
        constraint: ConstraintName = "softplus",
    ) -> None:
        super().__init__()
        check_constraint(constraint)
        image, widths, out_features = image_of(image), as_sizes(hidden, "hidden"), as_size(out_features, "out_features")
        plan = planned(image, convolutions)
        self.image, self.out_features, self.constraint = image, out_features, constraint
        self.activation = activation_of(activation, by_construction=constraint in POSITIVE)
        self.reductions, self.layers = nn.ModuleList(), nn.ModuleList()
        channels = image[0]
        width, cells = 0, 0
        for index, (layer, grid) in enumerate(plan):
            through = passthrough or index == 0
            step = FullStep(
                z=convex_conv(width, layer, constraint, bias=not through) if index else None,
                y=plain_conv(channels, layer) if through else None,
            )
            start_full(step, self.activation)
            self.layers.append(step)
            if passthrough:
                self.reductions.append(reduction(channels, layer))
            width, cells = layer.channels, grid[0] * grid[1]
        for index, size in enumerate([*widths, out_features]):
            inside = width * cells if index == 0 else width
            step = FullStep(
                z=flattened(convex_linear(inside, size, constraint, bias=not passthrough)),
                y=flattened(nn.Linear(channels * cells, size)) if passthrough else None,
            )
            start_full(step, self.activation)
            self.layers.append(step)
            width = size
        keep_nonnegative(self, constraint, [torch.zeros(1, *image)], constrained(self.layers))

    def forward(self, y: Tensor) -> Tensor:
        require_image(y, self.image, "y", "ConvFICNN")
        z = None
        for index, layer in enumerate(self.layers[:-1]):
            z = self.activation(layer(y, z))
            if index < len(self.reductions):
                y = self.reductions[index](y)
        return self.layers[-1](y, z)


class ConvPICNN(nn.Module):
    """Convolutional network f(x, y) of two images, convex in y for every x; dense layers follow the convolutions.

    The equations of `PICNN` with convolutions for its matrices, y_i for y (see `convexnet.nn.convolutional`) and gates
    made by 3×3 convolutions of u_i. In the first dense layer, gates are still convolutions on the grid, and what they
    have multiplied is flattened. The path of x has the same convolutions and dense layers as that of y.

    The network for face completion in the source is

        ConvPICNN((1, 64, 32), (1, 64, 32), [(32, 8, (4, 2)), (64, 4, 2), (64, 3)], hidden=(512,), x_norm=True)

    but for its first dense gates, which are dense there, and for its dense layers, which have no pass-through there.

    Args:
        x_image, y_image: (C, H, W) of one sample of each; their heights and widths agree.
        convolutions: for each convolutional layer, a `Convolution` or a tuple: channels, kernel, stride, padding.
        hidden: width of each dense hidden layer, or one width for one layer.
        out_features: outputs, each convex in y.
        activation, x_activation, x_norm, constraint, passthrough: as for `PICNN`.

    Shape: (B, C, H, W), (B, C', H, W) -> (B, out_features).

    Raises:
        ValueError, TypeError: wrong arguments, a kernel that does not fit; and, when called, images of another shape.

    Source: Amos, Xu & Kolter, Input Convex Neural Networks (ICML 2017), equation 3; the experiment on face completion.

    Example:
        >>> net = ConvPICNN((1, 8, 8), (2, 8, 8), [(4, 4, 2), (8, 3)], hidden=(16,))
        >>> x, y = torch.zeros(5, 1, 8, 8), torch.zeros(5, 2, 8, 8)
        >>> net(x, y).shape
        torch.Size([5, 1])
        >>> import convexnet as cx
        >>> print(cx.certify(net, (x, y), wrt=1).headline())
        CONVEX: ConvPICNN is convex in input 1, for all parameters
    """

    def __init__(
        self,
        x_image: tuple[int, int, int],
        y_image: tuple[int, int, int],
        convolutions: Convolutions,
        hidden: int | Sequence[int] = (),
        out_features: int = 1,
        activation: ActivationName | nn.Module = "softplus",
        x_activation: ActivationName | nn.Module = "relu",
        x_norm: bool = False,
        constraint: ConstraintName = "softplus",
        passthrough: bool = True,
    ) -> None:
        super().__init__()
        check_constraint(constraint)
        x_image, y_image = image_of(x_image, "x_image"), image_of(y_image, "y_image")
        widths, out_features = as_sizes(hidden, "hidden"), as_size(out_features, "out_features")
        plan = planned(y_image, convolutions)
        if x_image[1:] != y_image[1:]:
            raise ValueError(
                f"x is {x_image[1]} x {x_image[2]} and y {y_image[1]} x {y_image[2]}, but x gates y pixel by pixel: "
                "resize or pad x to the height and width of y"
            )
        self.x_image, self.y_image, self.out_features = x_image, y_image, out_features
        self.constraint = constraint
        self.activation = activation_of(activation, by_construction=constraint in POSITIVE)
        after = 1.0 if x_norm else power_after(free_activation_of(x_activation))
        self.reductions, self.x_layers, self.layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels, width, x_width, power, cells = y_image[0], 0, x_image[0], 1.0, 0
        for index, (layer, grid) in enumerate(plan):
            through = passthrough or index == 0
            step = PartialStep(
                z=convex_conv(width, layer, constraint, bias=False) if index else None,
                z_gate=gate(x_width, width) if index else None,
                y=plain_conv(channels, layer, bias=False) if through else None,
                y_gate=gate(x_width, channels) if through else None,
                u=plain_conv(x_width, layer),
            )
            norm = nn.BatchNorm2d(layer.channels) if x_norm else None
            self.add(step, plain_conv(x_width, layer), free_activation_of(x_activation), norm, power)
            if passthrough:
                self.reductions.append(reduction(channels, layer))
            width = x_width = layer.channels
            power, cells = after, grid[0] * grid[1]
        for index, size in enumerate([*widths, out_features]):
            first, last = index == 0, index == len(widths)
            inside, outside = (width * cells if first else width), channels * cells
            y_gate = gate(width, channels) if first else nn.Linear(width, outside)
            step = PartialStep(
                z=flattened(convex_linear(inside, size, constraint)),
                z_gate=gate(width, width) if first else nn.Linear(width, width),
                y=flattened(nn.Linear(outside, size, bias=False)) if passthrough else None,
                y_gate=y_gate if passthrough else None,
                u=flattened(nn.Linear(inside, size)),
            )
            path = None if last else flattened(nn.Linear(inside, size))
            self.add(step, path, free_activation_of(x_activation), nn.BatchNorm1d(size) if x_norm else None, power)
            width = size
        example = [torch.zeros(1, *x_image), torch.zeros(1, *y_image)]
        keep_nonnegative(self, constraint, example, constrained(self.layers))

    def add(
        self, step: PartialStep, path: nn.Module | None, activation: nn.Module, norm: nn.Module | None, power: float
    ) -> None:
        """Append a layer and, unless it is the last, the layer of the path of x next to it, with initial values."""
        start_partial(step, self.activation, power)
        self.layers.append(step)
        if path is not None:
            start_free(path, 1.0, power)
            self.x_layers.append(nn.Sequential(path, activation, *([] if norm is None else [norm])))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        require_image(x, self.x_image, "x", "ConvPICNN")
        require_image(y, self.y_image, "y", "ConvPICNN")
        u, z = x, None
        for index, layer in enumerate(self.layers[:-1]):
            z = self.activation(layer(u, y, z))
            u = self.x_layers[index](u)
            y = self.reductions[index](y) if index < len(self.reductions) else y.flatten(1)
        return self.layers[-1](u, y, z)

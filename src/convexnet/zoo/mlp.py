"""The multilayer perceptron of Sivaprasad et al. 2021: linear -> BatchNorm -> activation, three times, and a head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from convexnet.choices import ActivationName
from convexnet.zoo.parts import activation_named, as_widths, require_positive, with_keras_defaults


class MLP(nn.Module):
    """A multilayer perceptron for flattened images, (B, ...) -> logits (B, classes).

    | layer                  | parameters for 3072 inputs, 800-800-800, 10 classes |
    |------------------------|-----------------------------------------------------|
    | linear 3072 -> 800     | 2,458,400                                           |
    | linear 800 -> 800      | 640,800, twice                                      |
    | linear 800 -> 10       | 8,010                                               |
    | together               | 3,748,010                                           |
    | BatchNorm, three times | 1,600 each: 3,752,810 with them                     |

    Initialised by PyTorch's defaults, since the paper states no other.

    Args:
        in_features: numbers in one sample: 3072 for 3 x 32 x 32.
        classes: logits.
        hidden: width of each hidden layer, or one width for one layer; none at all leaves a linear classifier.
        activation: relu, elu, celu, softplus or leaky_relu.
        norm: BatchNorm between each hidden linear layer and its activation.

    Raises:
        TypeError, ValueError: wrong arguments; and, when called, samples of another size.

    Source: Sivaprasad et al. 2021, section 4 ("three hidden layers and 800 nodes in each layer", with BatchNorm);
    table 4 has the count without BatchNorm.

    Example:
        >>> import torch
        >>> model = MLP(3 * 8 * 8, 10, hidden=(32, 32))
        >>> model(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 10])
        >>> sum(p.numel() for p in MLP(3072, 10, norm=False).parameters())
        3748010
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        hidden: int | Sequence[int] = (800, 800, 800),
        activation: ActivationName = "relu",
        norm: bool = True,
    ) -> None:
        super().__init__()
        require_positive(in_features=in_features, classes=classes)
        in_features, classes = int(in_features), int(classes)
        widths = as_widths(hidden, "hidden")
        self.in_features = in_features
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = in_features
        for index, size in enumerate(widths, 1):
            layers[f"linear{index}"] = nn.Linear(width, size)
            if norm:
                layers[f"norm{index}"] = nn.BatchNorm1d(size)
            layers[f"activation{index}"] = activation_named(activation)
            width = size
        layers["head"] = nn.Linear(width, classes)
        self.layers = nn.Sequential(layers)

    def forward(self, images: Tensor) -> Tensor:
        sample = images.shape[1:]
        if images.ndim < 2 or sample.numel() != self.in_features:
            raise ValueError(
                f"MLP takes a batch of samples of {self.in_features} numbers, not shape {tuple(images.shape)}: "
                f"build it with in_features={sample.numel()}, or put the batch first"
            )
        return self.layers(images)


def mlp_published(
    in_features: int = 3072,
    classes: int = 10,
    *,
    hidden: int | Sequence[int] = (800, 800, 800),
    activation: ActivationName = "relu",
) -> MLP:
    """Return the MLP as the published code builds it: BatchNorm, Glorot-uniform weights, Keras's BatchNorm settings.

    The layers are those of the paper; only initial values and the settings of BatchNorm differ. Its first layer is as
    wide in the convex network.

    Source: the published code (see `convexnet.zoo.parts`).

    Example:
        >>> mlp_published(4, 2, hidden=(3,)).layers.norm1.eps
        0.001
    """
    model = MLP(in_features, classes, hidden, activation)
    with_keras_defaults(model)
    return model

"""Make the newer networks of experiments for the registry, and a small network of which the head alone is convex."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from torch import nn

from convexnet import zoo
from convexnet.lab.models.architectures import Model, converted
from convexnet.lab.models.convex import Design
from convexnet.zoo.cyclemlp import ConstantBranches, SoftmaxBranches
from convexnet.zoo.efficientnet import GATES, SqueezeExcitation

Make = Callable[[Sequence[int], int, Design], nn.Module]
Factories = Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]]

SIDE = 72
"""Pixels that the report resizes images to, for its Mixer."""

DROP_PATH = 0.1
"""Of the report's ordinary Mixer; its convex one has none."""

EFFICIENTNET_DROP_PATH = 0.2
"""Of the paper of EfficientNet, section 5.2."""

LEAST = 32
"""Side of the smallest images that DenseNet-121 and ResNet-50 are given: they halve them five times."""

HEAD = "head"


def resized(network: zoo.Mixer) -> nn.Module:
    """A Mixer behind a bilinear resize, which is linear with non-negative weights."""
    size = (network.image, network.image)
    return nn.Sequential(OrderedDict(resize=nn.Upsample(size=size, mode="bilinear"), mixer=network))


def dropped(recipe: Design, own: float = 0.0) -> float:
    """The drop-path of a recipe, or the model's own."""
    return own if recipe.drop_path is None else recipe.drop_path


def mixer(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """The MLP-Mixer of the report: 4 layers of width 128 over 9 x 9 patches of 72 x 72 pixels."""
    return resized(zoo.Mixer(classes, in_channels=shape[0], image=SIDE, drop_path=dropped(recipe, DROP_PATH)))


def mixer_without_drops(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """The same without drop-path, where the recipe has none, from which the convex one is made."""
    return resized(zoo.Mixer(classes, in_channels=shape[0], image=SIDE, drop_path=dropped(recipe)))


def mixer_report(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """The "IOC-Mixer" of the report's code, which is not convex."""
    return resized(zoo.mixer(classes, "report", in_channels=shape[0], image=SIDE, drop_path=dropped(recipe)))


def cyclemlp_b1(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """CycleMLP-B1, on images in their own size."""
    return zoo.cyclemlp_b1(classes, in_channels=shape[0], drop_path=dropped(recipe))


def cyclemlp_b1_report(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """The "IOC-CycleMLP" of the report's code, which is not convex."""
    return zoo.cyclemlp_b1(classes, "report", in_channels=shape[0], drop_path=dropped(recipe))


def efficientnet_b0(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """EfficientNet-B0, on images in their own size."""
    return zoo.efficientnet_b0(classes, in_channels=shape[0], drop_path=dropped(recipe, EFFICIENTNET_DROP_PATH))


def enlarged(network: nn.Module, shape: Sequence[int]) -> nn.Module:
    """A network behind a bilinear resize where images are smaller than it takes; of others, the network itself."""
    if min(shape[1:]) >= LEAST:
        return network
    size = tuple(max(LEAST, side) for side in shape[1:])
    return nn.Sequential(OrderedDict(resize=nn.Upsample(size=size, mode="bilinear"), network=network))


def stem(old: object, channels: int) -> nn.Conv2d:
    """A first convolution for images of so many colours; the old one, where that is what it takes."""
    assert isinstance(old, nn.Conv2d)
    if old.in_channels == channels:
        return old
    return nn.Conv2d(channels, old.out_channels, 7, stride=2, padding=3, bias=old.bias is not None)


def densenet_121(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """DenseNet-121 of torchvision with random weights, for images as large as ImageNet's."""
    from torchvision.models import densenet121

    del recipe
    network = densenet121(num_classes=classes)
    network.features.conv0 = stem(network.features.conv0, shape[0])
    return enlarged(network, shape)


def resnet_50(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """ResNet-50 of torchvision with random weights, for images as large as ImageNet's."""
    from torchvision.models import resnet50

    del recipe
    network = resnet50(num_classes=classes)
    network.conv1 = stem(network.conv1, shape[0])
    return enlarged(network, shape)


def cnn(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
    """Three convolutions with BatchNorm, 32, 64 and 64 channels, a global average, and a head of one hidden layer."""
    del recipe
    features: OrderedDict[str, nn.Module] = OrderedDict()
    channels = shape[0]
    for index, (width, stride) in enumerate(((32, 1), (64, 2), (64, 2)), 1):
        features[f"conv{index}"] = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        features[f"norm{index}"] = nn.BatchNorm2d(width)
        features[f"activation{index}"] = nn.ReLU()
        channels = width
    features |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    head: OrderedDict[str, nn.Module] = OrderedDict(
        linear1=nn.Linear(channels, 128), activation=nn.ReLU(), linear2=nn.Linear(128, classes)
    )
    return nn.Sequential(OrderedDict(features=nn.Sequential(features), head=nn.Sequential(head)))


def certified(
    ordinary: Make, title: str, *, family: str = "other", replace: Factories = MappingProxyType({}), only: str = ""
) -> Model:
    """The convex counterpart as the recipe's `convex` has it; with `only`, that of one part in its own input."""

    def make(shape: Sequence[int], classes: int, recipe: Design) -> nn.Module:
        how = recipe.convex
        return converted(
            ordinary(shape, classes, recipe), shape, how, how.activation, replace=replace, only=only or None
        )

    return Model(
        title, convex=not only, make=make, family=family, recipe="ours", colour="second" if only else "ioc", only=only
    )


def plain(make: Make, title: str, *, family: str = "other", colour: str = "nn") -> Model:
    """An ordinary network, or one of the report's."""
    return Model(title, convex=False, make=make, family=family, recipe="ours", colour=colour)


MODERN: Mapping[str, Model] = MappingProxyType(
    {
        "mixer": plain(mixer, "MLP-Mixer", family="mixer"),
        "ioc-mixer": certified(mixer_without_drops, "IOC-Mixer", family="mixer"),
        "mixer-report": plain(mixer_report, "the report’s IOC-Mixer (not convex)", family="mixer", colour="first"),
        "cyclemlp-b1": plain(cyclemlp_b1, "CycleMLP-B1", family="cyclemlp"),
        "ioc-cyclemlp-b1": certified(
            cyclemlp_b1,
            "IOC-CycleMLP-B1",
            family="cyclemlp",
            replace={SoftmaxBranches: ConstantBranches.like},
        ),
        "cyclemlp-b1-report": plain(
            cyclemlp_b1_report, "the report’s IOC-CycleMLP-B1 (not convex)", family="cyclemlp", colour="first"
        ),
        "efficientnet-b0": plain(efficientnet_b0, "EfficientNet-B0"),
        "ioc-efficientnet-b0": certified(
            efficientnet_b0, "IOC-EfficientNet-B0", replace={SqueezeExcitation: GATES["sum"]}
        ),
        "ioc-efficientnet-b0-ungated": certified(
            efficientnet_b0, "IOC-EfficientNet-B0 without gates", replace={SqueezeExcitation: GATES["removed"]}
        ),
        "densenet-121": plain(densenet_121, "DenseNet-121", family="imagenet"),
        "ioc-densenet-121": certified(densenet_121, "IOC-DenseNet-121", family="imagenet"),
        "resnet-50": plain(resnet_50, "ResNet-50", family="imagenet"),
        "ioc-resnet-50": certified(resnet_50, "IOC-ResNet-50", family="imagenet"),
        "cnn": plain(cnn, "CNN"),
        "ioc-cnn": certified(cnn, "IOC-CNN"),
        "cnn-head": certified(cnn, "CNN with a convex head", only=HEAD),
    }
)
"""By name; the registry has them behind the papers' own networks."""

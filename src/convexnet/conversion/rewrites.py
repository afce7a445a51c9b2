"""What is exchanged: activations that are not convex, and norms that divide by statistics of the sample.

Modules are recognised by what they are (subclasses count) and, where a library has classes of its own, by what they do:
a norm is asked, with random numbers, which dimensions it normalises; an activation, whether it acts on each element.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from convexnet.choices import ActivationName
from convexnet.conversion.changes import Change, describe_module
from convexnet.curvature import certify
from convexnet.curvature.tracing.restored_state import calling, in_eval_mode
from convexnet.errors import ConvexNetError
from convexnet.nn.activations import ACTIVATIONS
from convexnet.nn.norms import Affine, BatchNormAlong

Factory = Callable[[nn.Module], nn.Module]

EXCHANGED = (
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.ReLU6, nn.Hardtanh,
    nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.RReLU, nn.Softshrink,
    nn.Hardshrink, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
"""Activations of torch that a conversion exchanges. PReLU is not among them: its slope is constrained instead."""

SQUASHING = (nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.ReLU6, nn.Softsign)
"""Activations that give outputs their range, where they come last: exchanged, the outputs would mean something else."""

SAMPLE_NORM = re.compile(r"^(Layer|RMS|Rms|Group|Instance|Simple|LocalResponse)[A-Za-z]*Norm|^(RMS|Rms)Norm")
"""Names of classes that normalise by statistics of the sample, in any library."""


@dataclass
class Seen:
    """What the modules of a model did on the example.

    Attributes:
        shapes, kinds: of the first input of each module, by identity: its shape, and an empty tensor of its type.
        last: the modules whose result is an output of the model.
    """

    shapes: dict[int, torch.Size] = field(default_factory=dict[int, torch.Size])
    kinds: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    last: set[int] = field(default_factory=set[int])


@dataclass
class Rewriter:
    """Walks a module tree and exchanges what cannot stay.

    Attributes:
        activation: the name of the one to use, or None to keep those that are convex and non-decreasing.
        norm: what to put in place of a norm of the sample: "batch" or "affine".
        replace: the user's own factories by class.
        seen: what the modules did on the example.
        found: what was exchanged.
    """

    activation: ActivationName | None
    norm: str
    replace: Mapping[type[nn.Module], Factory]
    seen: Seen
    found: list[Change] = field(default_factory=list)
    done: dict[int, tuple[nn.Module, nn.Module]] = field(default_factory=dict[int, tuple[nn.Module, nn.Module]])
    used: set[type[nn.Module]] = field(default_factory=set[type[nn.Module]])
    proved: dict[Hashable, bool] = field(default_factory=dict[Hashable, bool])

    def rewrite(self, module: nn.Module, path: str = "") -> nn.Module:
        """The module's convex counterpart; its children are exchanged in place, itself if need be."""
        if id(module) in self.done:
            return self.done[id(module)][1]
        new = self.exchange(module, path)
        self.done[id(module)] = self.done[id(new)] = (
            module,
            new,
        )  # the old one is kept, so that its id is not used again
        if isinstance(new, parametrize.ParametrizationList):
            return new
        for name, child in list(new._modules.items()):  # pyright: ignore[reportPrivateUsage]  # also those used twice
            if child is None:
                continue
            inner = self.rewrite(child, f"{path}.{name}" if path else name)
            if inner is not child:
                new.add_module(name, inner)
                if isinstance(new, nn.TransformerEncoderLayer):  # its fused path in eval mode has norms of its own
                    new.activation_relu_or_gelu = 0
        return new

    def exchange(self, module: nn.Module, path: str) -> nn.Module:
        """What takes the place of a module, by the first rule that applies."""
        for kind, factory in self.replace.items():
            if isinstance(module, kind):
                self.used.add(kind)
                new = factory(module)
                if not isinstance(new, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
                    raise TypeError(f"replace[{kind.__name__}] returned {type(new).__name__} for {path}, not a module")
                return self.record(path, module, new, "the caller's own replacement")
        new = self.of_activation(module)
        if new is not None:
            if describe_module(new) == describe_module(module):
                return module
            reason = (
                f"an IOC network's activation is {self.activation}"
                if self.activation is not None
                else f"{type(module).__name__} is not convex and non-decreasing"
            )
            return self.record(path, module, new, reason)
        new = self.of_norm(module)
        return module if new is None else self.record(path, module, new, REASON_NORM)

    def record(self, path: str, before: nn.Module, after: nn.Module, reason: str) -> nn.Module:
        self.found.append(Change(path, describe_module(before), describe_module(after), reason))
        stayed = {id(module) for module in before.modules()}
        for module in after.modules():  # what stays, as the dropout of a fused norm, has a mode of its own
            if id(module) not in stayed:
                module.training = before.training
        kind = self.seen.kinds.get(id(before))
        return after if kind is None or not kind.dtype.is_floating_point else after.to(kind.device, kind.dtype)

    def of_activation(self, module: nn.Module) -> nn.Module | None:
        """The activation in place of another one; None for what is none, or may stay."""
        listed = isinstance(module, EXCHANGED)
        if not listed and not is_pointwise(module, self.seen.shapes.get(id(module))):
            return None
        last = id(module) in self.seen.last
        if last and isinstance(module, SQUASHING):
            return None
        if (last or self.activation is None or not listed) and self.may_stay(module):
            return None
        return ACTIVATIONS[self.activation or "elu"]()

    def may_stay(self, module: nn.Module) -> bool:
        """`is_convex_rising`, which takes a trace, once for all of torch's own activations with the same settings."""
        held = vars(module)
        settings = {name: value for name, value in held.items() if name != "training" and (name[0] != "_" or value)}
        simple = all(isinstance(value, (bool, int, float, str)) for value in settings.values())
        if not simple or not type(module).__module__.startswith("torch.nn.modules."):
            return is_convex_rising(module)
        key = type(module), tuple(settings.items())
        if key not in self.proved:
            self.proved[key] = is_convex_rising(module)
        return self.proved[key]

    def of_norm(self, module: nn.Module) -> nn.Module | None:
        """What normalises in place of a norm of the sample; fused activations stay behind it."""
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats:  # pyright: ignore[reportPrivateUsage]
            return self.normaliser(module.num_features, (1,), 4 if "2d" in type(module).__name__ else 3, module)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or not is_sample_norm(module):  # pyright: ignore[reportPrivateUsage]
            return None
        shape = self.seen.shapes.get(id(module))
        if shape is None:
            return None
        dims = feature_dims(module, shape)
        if dims is None:
            return None
        features = torch.Size(shape[d] for d in dims).numel()
        return with_what_follows(self.normaliser(features, dims, len(shape), module), module)

    def normaliser(self, features: int, dims: tuple[int, ...], rank: int, old: nn.Module) -> nn.Module:
        """A BatchNorm or an affine map with the scale and shift of the old norm."""
        if self.norm == "affine":
            new: nn.Module = Affine(features, dims)
        elif dims == (1,):
            new = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank](features)
        else:
            new = BatchNormAlong(features, dims)
        sources = list(old.parameters(recurse=False))
        if sources:
            new.to(sources[0].device, sources[0].dtype)
        with torch.no_grad():
            for name in ("weight", "bias"):
                value = getattr(old, name, None)
                if isinstance(value, Tensor) and value.numel() == features:
                    getattr(new, name).copy_(value.flatten())
                    getattr(new, name).requires_grad_(value.requires_grad)
        if sources and not any(source.requires_grad for source in sources):
            new.requires_grad_(False)
        return new


def with_what_follows(core: nn.Module, norm: nn.Module) -> nn.Module:
    """What takes the place of a norm, with the activation and dropout behind it that the norm had fused."""
    behind = [(name, child) for name, child in norm.named_children() if not isinstance(child, nn.Identity)]
    if not behind:
        return core
    fused = nn.Sequential()
    fused.add_module("norm", core)
    for name, child in behind:
        fused.add_module(name, child)
    return fused


REASON_NORM = "it divides by statistics of the sample, which is not convex"


# --- asking a module what it does ------------------------------------------------------------------------------------


def watch(model: nn.Module, inputs: tuple[Tensor, ...]) -> Seen:
    """Run a model on the example and see what its modules do."""
    seen = Seen()
    results: dict[int, tuple[nn.Module, object]] = {}  # they are kept, so that no other takes their identity

    def note(module: nn.Module, args: tuple[object, ...], result: object) -> None:
        if args and isinstance(args[0], Tensor):
            seen.shapes.setdefault(id(module), args[0].shape)
            seen.kinds.setdefault(id(module), args[0].new_empty(0))
        results[id(module)] = module, result

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with calling(model):
            outputs = {id(leaf) for leaf in pytree.tree_leaves(model(*inputs))}
    finally:
        for handle in handles:
            handle.remove()
    seen.last = {key for key, (_, result) in results.items() if id(result) in outputs}
    return seen


def is_sample_norm(module: nn.Module) -> bool:
    return any(SAMPLE_NORM.match(kind.__name__) for kind in type(module).__mro__)


def probe(module: nn.Module, x: Tensor) -> Tensor | None:
    """What a module makes of an input, in eval mode; None where it fails."""
    try:
        with torch.no_grad(), in_eval_mode(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = module(x.clone())  # a module that works in place must not change what it is compared on
    except Exception:  # whatever a forward raises: it is not what is looked for
        return None
    return out if isinstance(out, Tensor) and out.shape == x.shape else None


def random_like(module: nn.Module, shape: torch.Size) -> Tensor:
    kind = next(iter(module.parameters()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(kind.device, kind.dtype)


def feature_dims(norm: nn.Module, shape: torch.Size) -> tuple[int, ...] | None:
    """The dimensions that hold the features of a norm: those its weight has one entry for.

    Group and instance norms have them in dimension 1. A layer norm may work along any dimension: one element is
    changed, and the dimensions along which others change with it are those it normalises.
    """
    if isinstance(norm, nn.GroupNorm | nn.LocalResponseNorm | nn.modules.instancenorm._InstanceNorm):  # pyright: ignore[reportPrivateUsage]
        return (1,)
    norm = copy.deepcopy(norm)
    scale = getattr(norm, "weight", None)
    if isinstance(scale, Tensor):  # one that starts at zero would hide what the norm does
        scale.data.fill_(1.0)
    x = random_like(norm, shape)
    y = probe(norm, x)
    if y is None:
        return None
    other = x.clone()
    corner = (0,) * len(shape)
    other[corner] += 3.0
    changed = (probe(norm, other) != y)[0]
    along = [d + 1 for d in range(changed.ndim) if bool(changed.narrow(d, 1, changed.shape[d] - 1).any())]
    weight = getattr(norm, "weight", None)
    size = weight.numel() if isinstance(weight, Tensor) else None
    if size is not None and torch.Size(shape[d] for d in along).numel() != size:
        return (1,) if len(shape) > 1 and shape[1] == size else None
    return tuple(along) or None


def is_pointwise(module: nn.Module, shape: torch.Size | None) -> bool:
    """Whether a module without parameters or children acts on each element alone, and is not linear."""
    if shape is None or next(module.children(), None) is not None:
        return False
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return False
    small = torch.Size(min(length, 3) for length in shape)
    x = random_like(module, small)
    y = probe(module, x)
    if y is None or y.dtype != x.dtype:
        return False
    turned = probe(module, x.flip(tuple(range(x.ndim))))
    alone = probe(module, x.flatten()[:1].reshape([1] * x.ndim))
    twice, none = probe(module, 2 * x), probe(module, 0 * x)
    if turned is None or alone is None or twice is None or none is None:
        return False
    # vectorised and scalar kernels may differ in the last bit
    unmoved = torch.allclose(turned.flip(tuple(range(x.ndim))), y) and torch.allclose(alone.flatten(), y.flatten()[:1])
    return unmoved and not torch.allclose(twice - none, 2 * (y - none), atol=1e-6)


class BehindNonlinearity(nn.Module):
    """A module on an argument that is convex and takes every value: x + relu(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + torch.relu(x))


def is_convex_rising(module: nn.Module) -> bool:
    """Whether an activation may stand behind a nonlinearity: proved convex on a convex argument."""
    try:
        return certify(BehindNonlinearity(module), torch.zeros(2, 1)).convex
    except ConvexNetError:
        return False

"""From a trained network to plain layers: computed weights written out, BatchNorm folded into its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils import _pytree as pytree

from convexnet.constraints.parametrised import plain_again
from convexnet.conversion.rewrites import with_what_follows
from convexnet.curvature.arguments import copy_module, unwrap
from convexnet.curvature.rules.shapes import Moved, reshaped
from convexnet.curvature.table import is_batch_norm, row_of
from convexnet.curvature.tracing.graph import base_name, functional
from convexnet.curvature.tracing.restored_state import in_eval_mode, restored_settings
from convexnet.curvature.tracing.trace import Program, trace
from convexnet.curvature.tracing.trace_errors import evaluate_in_float64
from convexnet.errors import ConvexNetError
from convexnet.memory import CONSTRAINT, ONLY, example_of
from convexnet.nn.heads import FreeHead
from convexnet.nn.layers import ConvexConv2d, ConvexLinear
from convexnet.nn.norms import Affine, BatchNormAlong

LAYERS = {kind.__name__.lower(): kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)}
TOLERANCE = 1e-6


def bake(model: nn.Module, example: Tensor | Sequence[Tensor] | None = None) -> nn.Module:
    """Return a copy of a network for inference, in eval mode, made of plain layers that compute the same.

    Weights that are computed (softplus, exp, any parametrisation) become parameters, a free head becomes a linear layer
    with V - min_k V, and each BatchNorm is folded into the linear or convolutional layer before or after it; where none
    is its neighbour, a scale and a shift remain. The copy is no longer constrained.

    Args:
        model: the network; it is not touched.
        example: one batch of inputs. None: the shape that `constrain` or `convexify` recorded, or a guess from the
            first layer, which takes a linear layer for one of vectors (batch, in_features). The copy computes the same
            for inputs with that many dimensions: a BatchNorm1d looks at the features of (batch, features), and at the
            channels of (batch, channels, length).

    Raises:
        ValueError: no example is known, or a BatchNorm has no running statistics.
        NotTraceable: `torch.export` cannot record the forward, or it fails in float64.
        ConvexNetError: the copy's outputs differ by more than 1e-6 relative to their size (in float64).

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> bake(net)
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): Identity()
          (2): ReLU()
          (3): Identity()
          (4): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    inner = unwrap(model)
    inputs = example_of(inner, example)
    plain = copy_module(inner)
    plain.eval()
    for key in (CONSTRAINT, ONLY):
        plain.__dict__.pop(key, None)
    for module in list(plain.modules()):
        module.__dict__.pop(CONSTRAINT, None)
        plain_again(module)
    plain = exchange_modules(plain, {id(m): new for m in plain.modules() if (new := plain_of(m)) is not None})
    program = trace(plain, inputs)
    folded: dict[int, nn.Module] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and is_batch_norm(base_name(node.target)):
            norm = norm_of(plain, program, node)
            if norm is not None and id(norm) not in folded:
                folded[id(norm)] = fold(plain, program, node, norm)
    plain = exchange_modules(plain, folded).eval()
    check_same(inner, plain, inputs)
    return plain


def exchange_modules(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """The model with some of its modules exchanged, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in new:
                parent.add_module(name, new[id(child)])
    return new.get(id(model), model)


def plain_of(module: nn.Module) -> nn.Module | None:
    """The plain layer that computes what a layer with computed weights does, at its present weights."""
    if isinstance(module, FreeHead):
        return linear_of(module)
    return module.plain().eval() if isinstance(module, ConvexLinear | ConvexConv2d) else None


@torch.no_grad()
def linear_of(head: FreeHead) -> nn.Linear:
    plain = nn.Linear(head.in_features, head.out_features, "bias" in dict(head.named_parameters()))
    plain.to(head.weight.device, head.weight.dtype)
    plain.load_state_dict({**head.state_dict(), "weight": head.effective()})
    return plain.eval()


# --- folding ---------------------------------------------------------------------------------------------------------


def owner_of(model: nn.Module, program: Program, value: object) -> nn.Module | None:
    """The module that holds the tensor of a placeholder, if no other operator reads it."""
    if not isinstance(value, fx.Node) or value.op != "placeholder" or len(value.users) != 1:
        return None
    source = program.sources[str(value.target)]
    if source.kind not in ("parameter", "buffer"):
        return None
    return model.get_submodule(source.name.rpartition(".")[0])


def norm_of(model: nn.Module, program: Program, node: fx.Node) -> _BatchNorm | None:
    """The BatchNorm module of an operator, if it is used once."""
    module = owner_of(model, program, node.args[3])
    return module if isinstance(module, _BatchNorm) else None


def fold(model: nn.Module, program: Program, node: fx.Node, norm: _BatchNorm) -> nn.Module:
    """Fold a norm into its neighbour; returns what takes its place."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale = (var.double() + norm.eps).rsqrt()
    if norm.weight is not None:  # pyright: ignore[reportUnnecessaryComparison]
        scale = scale * norm.weight.detach().double()
    shift = -mean.double() * scale
    if norm.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
        shift = shift + norm.bias.detach().double()
    along = norm.dims if isinstance(norm, BatchNormAlong) else (1,)
    before = layer_before(model, program, node)
    after = None if before is not None else layer_after(model, program, node)
    if before is not None:
        fold_back(before, scale, shift)
        core: nn.Module = nn.Identity()
    elif after is not None:
        fold_forward(after, scale, shift)
        core = nn.Identity()
    else:
        core = rest = Affine(norm.num_features, along).to(mean.device, mean.dtype)
        with torch.no_grad():
            rest.weight.copy_(scale)
            rest.bias.copy_(shift)
    return with_what_follows(core, norm)


def is_move(node: fx.Node) -> bool:
    row = row_of(base_name(node.target))
    return node.op == "call_function" and (isinstance(row.rule, Moved) or row.runs(reshaped))


def layer_of(model: nn.Module, program: Program, node: fx.Node) -> nn.Module | None:
    """The plain linear or convolutional layer of an operator, if it is used once."""
    name = base_name(node.target)
    if node.op != "call_function" or name not in LAYERS:
        return None
    module = owner_of(model, program, node.args[1])
    return module if type(module) is LAYERS[name] else None


def units_at(layer: nn.Module, node: fx.Node) -> int:
    """The dimension in which a layer has its units: the last of a linear layer, the second of a convolution."""
    return node.meta["val"].ndim - 1 if isinstance(layer, nn.Linear) else 1


def keeps_units(chain: Sequence[fx.Node], start: fx.Node, dim: int, end: int) -> bool:
    """Whether moving elements brings unit i, at place i of one dimension, to place i of another."""
    shape = start.meta["val"].shape
    numbers = torch.arange(shape[dim]).view([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape)
    for node in chain:
        numbers = functional(node.target, base_name(node.target))(numbers.contiguous(), *node.args[1:], **node.kwargs)
    expected = torch.arange(shape[dim])
    return numbers.shape[end] == len(expected) and bool((numbers.movedim(end, -1) == expected).all())


def layer_before(model: nn.Module, program: Program, node: fx.Node) -> nn.Module | None:
    """The layer whose result goes to the norm and nowhere else (possibly with its elements moved on the way)."""
    source, chain = node.args[0], list[fx.Node]()
    while isinstance(source, fx.Node) and is_move(source) and len(source.users) == 1:
        chain.insert(0, source)
        source = source.args[0]
    if not isinstance(source, fx.Node) or len(source.users) != 1:
        return None
    layer = layer_of(model, program, source)
    return layer if layer is not None and keeps_units(chain, source, units_at(layer, source), 1) else None


def layer_after(model: nn.Module, program: Program, node: fx.Node) -> nn.Module | None:
    """The one layer that reads the norm; a convolution that pads would see zeros where the norm has its shift."""
    start = source = next(iter(node.users)) if isinstance(node.meta["val"], (list, tuple)) else node
    chain: list[fx.Node] = []
    while len(source.users) == 1 and is_move(user := next(iter(source.users))):
        chain.append(user)
        source = user
    if len(source.users) != 1 or (user := next(iter(source.users))).args[0] is not source:
        return None
    layer = layer_of(model, program, user)
    if layer is None or not keeps_units(chain, start, 1, units_at(layer, source)):
        return None
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        padded = layer.padding == "same" if isinstance(layer.padding, str) else any(layer.padding)
        return None if padded or layer.groups != 1 else layer
    return layer


@torch.no_grad()
def fold_back(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """s (W x + b) + t = (s W) x + (s b + t)."""
    weight: Tensor = layer.weight  # pyright: ignore
    bias: Tensor | None = layer.bias  # pyright: ignore
    moved = shift if bias is None else bias.double() * scale + shift
    weight.copy_(weight.double() * scale.view(-1, *[1] * (weight.ndim - 1)))
    set_bias(layer, moved, weight)


@torch.no_grad()
def fold_forward(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """W (s x + t) + b = (W s) x + (W t + b)."""
    weight: Tensor = layer.weight  # pyright: ignore
    bias: Tensor | None = layer.bias  # pyright: ignore
    columns = [-1, *[1] * (weight.ndim - 2)]
    moved = (weight.double() * shift.view(columns)).flatten(1).sum(1)
    set_bias(layer, moved if bias is None else moved + bias.double(), weight)
    weight.copy_(weight.double() * scale.view(columns))


def set_bias(layer: nn.Module, value: Tensor, like: Tensor) -> None:
    layer.register_parameter("bias", nn.Parameter(value.to(like.dtype), requires_grad=like.requires_grad))


def check_same(model: nn.Module, plain: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Both in float64, on random inputs of the example's shape."""
    generator = torch.Generator().manual_seed(0)
    probes = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.device) if t.is_floating_point() else t
        for t in inputs
    ]
    with restored_settings(), torch.no_grad():
        one, other = (flatten_outputs(outputs_of(copy_module(net).double(), probes)) for net in (model, plain))
    for a, b in zip(one, other, strict=True):
        size = float(a.abs().max()) if a.numel() else 0.0
        worst = float((a - b).abs().max()) if a.numel() else 0.0
        if not worst <= TOLERANCE * (1 + size):
            raise ConvexNetError(
                f"the baked copy of {type(model).__name__} differs by {worst:.3g} where outputs reach {size:.3g}, more "
                "than rounding explains: a layer looks at the parameters of another or has an eval mode of its own, or "
                "its weights are not finite"
            )


def outputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> object:
    """What a copy makes of some inputs, in eval mode."""
    with in_eval_mode(model):
        return evaluate_in_float64(model, inputs)


def flatten_outputs(value: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_floating_point()]

"""The head of a classifier: found in the traced program, and freed of its constraint."""

from __future__ import annotations

from torch import fx, nn

from convexnet.conversion.changes import Change, describe_module, with_module_at
from convexnet.curvature.tracing.graph import base_name
from convexnet.curvature.tracing.trace import Program
from convexnet.nn.heads import FreeHead


def free_head(model: nn.Module, program: Program) -> tuple[nn.Module, Change]:
    """Exchange the last linear layer for a `FreeHead` with its weights, in place; the model may be that layer itself.

    Raises:
        ValueError: the output is not directly that of one linear layer, which has two outputs or more and is used once.
    """
    leaves = [leaf for _, leaf in program.outputs]
    node = leaves[0]
    if len(leaves) != 1 or not isinstance(node, fx.Node) or base_name(node.target) != "linear":
        last = base_name(node.target) if isinstance(node, fx.Node) and node.op == "call_function" else "no operator"
        raise ValueError(
            "head='free' needs a model with one output that comes directly from a linear layer; here "
            + (f"there are {len(leaves)} outputs" if len(leaves) != 1 else f"the last step is {last}")
            + ". A common shift of all logits is harmless before a softmax or argmax only: leave head='nonnegative'"
        )
    weight = node.args[1]
    source = program.sources.get(str(weight.target)) if isinstance(weight, fx.Node) else None
    path, _, leaf = (source.name if source is not None and source.kind == "parameter" else "").rpartition(".")
    old = model.get_submodule(path)
    if type(old) is not nn.Linear or leaf != "weight":
        raise ValueError(
            f"head='free' needs a plain nn.Linear at the end; {path or 'the model'} is {describe_module(old)}"
        )
    assert isinstance(weight, fx.Node)
    if len(weight.users) > 1:
        raise ValueError(f"head='free': {path or 'the model itself'} is used more than once")
    biased = "bias" in dict(old.named_parameters())
    new = FreeHead(old.in_features, old.out_features, biased)
    new.to(old.weight.device, old.weight.dtype).train(old.training)
    new.load_state_dict(old.state_dict())
    change = Change(
        path, describe_module(old), describe_module(new), "head='free': its weights count relative to their minimum"
    )
    return with_module_at(model, path, new), change

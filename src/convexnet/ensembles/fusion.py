"""Ensembles that are convex: a constant average of experts, and their maximum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from convexnet.curvature import certify
from convexnet.ensembles.outputs import as_experts, evaluating, logits_of_all
from convexnet.ensembles.samples import is_weighting
from convexnet.errors import NotCertified, meant
from convexnet.memory import example_of, remember_example

FusionName = Literal["mean", "max"]
FUSIONS = get_args(FusionName)


class Fused(nn.Module):
    """The average of experts with constant weights, or their maximum: convex where the experts are. Made by `fuse`.

    Attributes:
        experts: the modules themselves, not copies.
        how: "mean" or "max".
        weights: (experts,), not negative and with the sum 1; "max" does not use them.

    Shape: (B, ...) -> (B, K).

    Example:
        >>> fused = Fused([nn.Linear(2, 1), nn.Linear(2, 1)], "max", torch.tensor([0.5, 0.5]))
        >>> fused(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """

    weights: Tensor

    def __init__(self, experts: Iterable[nn.Module], how: FusionName, weights: Tensor) -> None:
        super().__init__()
        self.experts, self.how = as_experts(experts), how
        self.register_buffer("weights", weights)

    def extra_repr(self) -> str:
        return f"{self.how!r}"

    def forward(self, x: Tensor) -> Tensor:
        logits = logits_of_all(self.experts, x)
        if self.how == "max":
            return logits.amax(1)
        return (logits * self.weights.to(logits)[:, None]).sum(1)


def fuse(
    experts: Iterable[nn.Module],
    how: FusionName = "mean",
    *,
    weights: Sequence[float] | Tensor | None = None,
    calibrated: bool = False,
    example: Tensor | None = None,
) -> Fused:
    """Fuse convex experts into one network that is certified convex, in place of a gate that could not be.

    An average of convex functions with constant weights >= 0 is convex, and so is their maximum. The average of logits
    is a product of experts: under the softmax, p ∝ Π_j p_j^w_j. The maximum is meant for experts with one output. With
    more, each logit is compared across the experts, and what softmax-trained logits are is free up to a shift that is
    common to the classes and may depend on x: the classes of the maximum would depend on that shift. It is therefore
    refused unless the caller says that the logits are calibrated, that is, comparable between experts at every x. The
    shift does not change the average's classes.

    Args:
        experts: modules (B, ...) -> (B, K) or (B,), each certified convex. They are held, not copied.
        how: "mean" or "max".
        weights: (experts,) of the mean, not negative; divided by their sum. None: all alike. Those of a `Boosted` do.
        calibrated: the logits of different experts are comparable, so that "max" may be used with K > 1.
        example: inputs (B, ...), of which only shape and type matter. None: what the first expert remembers or its
            first layer tells.

    Raises:
        NotCertified: an expert, named by its number, or the fusion is not certified.
        ValueError, TypeError: wrong arguments, "max" of several outputs that are not calibrated, experts with
            different numbers of outputs.

    Source: the composition theorem (Boyd & Vandenberghe, Convex Optimization, section 3.2).

    Example:
        >>> import convexnet as cx
        >>> experts = [cx.nn.FICNN(2, hidden=(8,)) for _ in range(3)]
        >>> print(cx.certify(fuse(experts, "max"), torch.zeros(1, 2)).headline())
        CONVEX: Fused is convex in its input, for all parameters
    """
    if how not in FUSIONS:
        raise ValueError(f"how is 'mean' or 'max', not {how!r}{meant(how, FUSIONS)}")
    members = as_experts(experts)
    shares = shares_of(weights, len(members), how).to(dtype_of(members))
    fused = Fused(members, how, shares)
    fused.training = any(expert.training for expert in members)
    inputs = example_of(members[0] if example is None else fused, example)
    for index, expert in enumerate(members):
        certificate = certify(expert, inputs)
        if not certificate.convex:
            found = "\n".join(map(str, certificate.findings))
            raise NotCertified(
                f"expert {index} cannot be fused: {certificate.headline()}\n{found}", certificate.findings
            )
    with evaluating(fused):
        outputs = fused(*inputs).shape[1]
    if how == "max" and outputs > 1 and not calibrated:
        raise ValueError(
            f"the maximum of experts with {outputs} outputs depends on shifts that softmax-trained logits are free to "
            "have, at each x another: use how='mean', experts with one output, or calibrated=True if the logits are "
            "comparable between experts"
        )
    certify(fused, inputs).require()
    remember_example(fused, inputs)
    return fused


def shares_of(weights: Sequence[float] | Tensor | None, count: int, how: str) -> Tensor:
    """Return the weights of a mean in float64, with the sum 1.

    Raises:
        ValueError: of another number, negative, not finite, all 0, or given for a maximum.

    Example:
        >>> shares_of([1.0, 3.0], 2, "mean")
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if weights is None:
        return torch.full((count,), 1 / count, dtype=torch.float64)
    if how == "max":
        raise ValueError("weights belong to how='mean'; a maximum of weighted experts would be another function")
    found = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    if found.shape != (count,):
        raise ValueError(f"weights have the shape {tuple(found.shape)}, and there are {count} experts")
    if not is_weighting(found):
        raise ValueError("weights must be finite and not negative, and one of them positive: others are not convex")
    found = found / found.max()  # the sum of large ones is infinite
    return found / found.sum()


def dtype_of(experts: nn.ModuleList) -> torch.dtype:
    """Return the floating type of experts, in which a mean of theirs is exact to rounding; float32 without parameters.

    Example:
        >>> dtype_of(nn.ModuleList([nn.Linear(1, 1).double()]))
        torch.float64
    """
    found = [parameter.dtype for parameter in experts.parameters() if parameter.is_floating_point()]
    return found[0] if found else torch.float32

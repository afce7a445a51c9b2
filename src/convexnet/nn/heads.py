"""A classifying head whose weights are free."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from convexnet.arrays import as_size


class FreeHead(nn.Linear):
    """A last linear layer with free V that computes with V - min_k V: convex logits of a convex x for every V.

    Subtracting the same number from every class's weight of a feature adds one common term to all logits, which changes
    no softmax and no argmax over them; the single logits do change. So the weights need no constraint, as long as there
    are at least two outputs that are read through a softmax or an argmax, with nothing after this layer.

    Shape: (B, ..., in_features) -> (B, ..., out_features).

    Example:
        >>> import torch
        >>> head, x = FreeHead(4, 3), torch.rand(2, 4)
        >>> plain = F.linear(x, head.weight, head.bias)
        >>> torch.allclose(head(x).softmax(1), plain.softmax(1), atol=1e-6)
        True
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        in_features, out_features = as_size(in_features, "in_features"), as_size(out_features, "out_features")
        if out_features < 2:
            raise ValueError(f"a free head needs at least two outputs, not {out_features}: its weights are relative")
        super().__init__(in_features, out_features, bias)

    def effective(self) -> Tensor:
        """V - min_k V, which is >= 0.

        Example:
            >>> bool((FreeHead(4, 3).effective() >= 0).all())
            True
        """
        # the clamp changes nothing, neither value nor gradient; it lets a calculus of signs see what holds
        return (self.weight - self.weight.amin(0)).clamp(min=0)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.effective(), self.bias)

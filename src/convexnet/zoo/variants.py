"""What the variants of the newer networks share: a certified counterpart, and the constraint of the report's code.

Each of these networks comes as "ordinary", as its paper has it; as "certified", the counterpart that `convexify` makes
of it; and some as "report", as the code of Singh 2022 has it, which is not convex.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar, cast

import torch
from torch import nn

from convexnet.choices import ActivationName, InitName, MethodName, NormName
from convexnet.constraints.cone import Cone
from convexnet.constraints.sets import Interval, method_of
from convexnet.conversion import convexify
from convexnet.errors import meant

Variant = Literal["ordinary", "report", "certified"]
"""Of a network."""

EXEMPT = "exempt"
"""The attribute of a network of the report that holds what its constraint leaves free."""


def require_variant(variant: object, known: Sequence[str]) -> None:
    """Refuse a variant that a network does not have.

    Raises:
        ValueError: with those it has, and the nearest of them.

    Example:
        >>> require_variant("certfied", ("ordinary", "certified"))
        Traceback (most recent call last):
        ValueError: unknown variant 'certfied' (did you mean 'certified'?); there are ordinary, certified
    """
    if variant not in known:
        raise ValueError(f"unknown variant {variant!r}{meant(variant, known)}; there are {', '.join(known)}")


Network = TypeVar("Network", bound=nn.Module)


def certified(
    network: Network,
    shape: Sequence[int],
    *,
    activation: ActivationName,
    norm: NormName,
    method: MethodName,
    init: InitName | None,
    replace: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]] = {},
) -> Network:
    """Return the certified counterpart of a network that has learnt nothing yet, for samples of a shape.

    The warning of `convexify` that accuracy is lost is left out: there is none to lose.

    Raises:
        NotCertified: something in the network has no convex rewrite.

    Example:
        >>> made = certified(
        ...     nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 2)),
        ...     (2,),
        ...     activation="elu",
        ...     norm="batch",
        ...     method="clip",
        ...     init=None,
        ... )
        >>> bool((made[2].weight >= 0).all())
        True
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "convexify projects weights", UserWarning)
        made = convexify(
            network,
            torch.zeros(2, *shape),
            activation=activation,
            norm=norm,
            method=method,
            init=init,
            replace=replace,
        )
    assert isinstance(made, type(network))  # of a network as a whole, parts are exchanged
    return made


def report_constraint(network: nn.Module, epsilon: float = 5.0) -> Cone:
    """Return the constraint of the report's code for a network of the variant "report". **It does not make it convex.**

    After each step every entry w < 0 of a parameter whose name contains "weight", the scales of norms included, becomes
    e^(w - epsilon); `network.exempt` names those that the code leaves out, biases among them by their name. Neither
    LayerNorm nor a softmax of branches becomes convex by that, and `certify` says so. `cx.constrain` refuses such a
    network, for the same reason.

    Args:
        network: a Mixer or CycleMLP of the variant "report"; it may lie in another module, such as one that resizes.
        epsilon: of the method "exponentiate"; the report takes 5.

    Returns:
        A cone: attach it to the optimiser. Nothing is projected before that.

    Raises:
        ValueError: the network is not of that variant.

    Source: Singh 2022, the report's code (github.com/gsc2001/ConvexNet), its training loops.

    Example:
        >>> from convexnet.zoo import mixer
        >>> network = mixer(10, variant="report", image=6, patch=3, width=4, layers=1)
        >>> report_constraint(network).parameters[:3]
        ('blocks.0.token.linear1.weight', 'blocks.0.token.linear2.weight', 'blocks.0.norm2.weight')
        >>> report_constraint(network).attach(torch.optim.Adam(network.parameters(), lr=1e-3)).violation()
        0.0
    """
    kept: dict[str, Interval] = {}
    found = False
    for path, module in network.named_modules():
        exempt = getattr(module, EXEMPT, None)
        if exempt is None:
            continue
        found = True
        prefix = f"{path}." if path else ""
        for name, parameter in module.named_parameters():
            if "weight" in name and not any(re.fullmatch(pattern, name) for pattern in cast("tuple[str, ...]", exempt)):
                mask = torch.ones([1] * parameter.ndim, dtype=torch.bool)
                kept[f"{prefix}{name}"] = Interval.above(0.0, mask)
    if not found:
        raise ValueError(
            f"{type(network).__name__} is not of the variant 'report', whose constraint is by names: "
            "cx.constrain(model, example) derives that of a convex network"
        )
    return Cone(network, kept, method_of("exponentiate", epsilon))

"""A whole model: new values for its constrained weights, and how alike the units of each layer are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convexnet.choices import INITS, InitName
from convexnet.curvature.arguments import as_example, unwrap
from convexnet.curvature.tracing.restored_state import calling
from convexnet.errors import meant
from convexnet.initialise.activation_moments import Activation, moments
from convexnet.initialise.weights import expand_mask, fill_lognormal, identity_, paper_

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


# --- initialise ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def initialise(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    how: InitName,
    activation: Activation = "elu",
    *,
    generator: torch.Generator | None = None,
) -> None:
    """Give the constrained weights of a model new, non-negative values, in place; all else stays as it is.

    Weights are of shape (out, in, *kernel), as in `nn.Linear` and `nn.Conv2d`; those of transposed convolutions are
    brought into that order, and counted as if every output saw the whole kernel, whatever the stride. A parameter with
    fewer than two dimensions, such as a BatchNorm's γ, becomes 1 where it is constrained. "lognormal" sets the biases
    of the rows that it draws too (`bias` beside `weight`). Frozen parameters are treated as the others.

    Args:
        model: the module that the names belong to.
        masks: for each constrained parameter, by its name in `model.named_parameters()`, a boolean mask that broadcasts
            to it: True where it must be non-negative.
        how: "paper", "lognormal" or "identity", with the defaults of `paper_`, `lognormal_` and `identity_`.
        activation: what is taken to come before *every* constrained layer. An approximation, used by "lognormal" only:
            a layer may see a sum of branches, pooled values, or another activation.
        generator: of the random numbers.

    Raises:
        ValueError, TypeError: unknown `how`, activation or parameter name; a mask that is not boolean or has the wrong
            shape; the stored value of a parametrisation. Nothing is changed then.

    Source: see the three initialisers.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 1))
        >>> initialise(net, {"2.weight": torch.tensor(True), "4.weight": torch.tensor(True)}, "identity")
        >>> [bool((net[i].weight >= 0).all()) for i in (0, 2, 4)]
        [False, True, True]
    """
    if how not in INITS:
        raise ValueError(
            f"unknown initialisation {how!r}{meant(how, INITS)}: choose one of {', '.join(map(repr, INITS))}"
        )
    chosen = {name: checked_mask(model, name, mask) for name, mask in masks.items()}
    constants = moments(activation) if how == "lognormal" else None

    for name, (parameter, mask) in chosen.items():
        if not bool(mask.any()):
            continue
        if parameter.ndim < 2:
            parameter.masked_fill_(mask, 1.0)
            continue
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        groups = module.groups if isinstance(module, CONVOLUTIONS) else 1
        transposed = isinstance(module, TRANSPOSED)
        weight = swap_channels(parameter, groups) if transposed else parameter
        where = swap_channels(mask, groups) if transposed else mask
        if how == "paper":
            paper_(weight, where=where, generator=generator)
        elif how == "identity":
            identity_(weight, groups=groups, where=where, generator=generator)
        elif constants is not None:
            bias = getattr(module, leaf.replace("weight", "bias"), None) if "weight" in leaf else None
            fits = isinstance(bias, Tensor) and bias.shape == weight.shape[:1]
            fill_lognormal(weight, bias if fits else None, constants, 0.5, where, generator)
        if transposed:
            parameter.copy_(swap_channels(weight, groups))


def checked_mask(model: nn.Module, name: str, mask: Tensor) -> tuple[nn.Parameter, Tensor]:
    """The named parameter and its mask in full, or an error that names it."""
    parameter = dict(model.named_parameters(remove_duplicate=False)).get(name)
    if parameter is None:
        raise ValueError(
            f"{type(model).__name__} has no parameter {name!r}: give the names of model.named_parameters()"
        )
    if "parametrizations" in name.split("."):
        raise ValueError(
            f"{name} is what a parametrisation stores, not the weight itself: initialise first, parametrise afterwards"
        )
    try:
        return parameter, expand_mask(mask, parameter)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def swap_channels(weight: Tensor, groups: int) -> Tensor:
    """A copy in which inputs and outputs change places: (in, out / groups, ...) as (out, in / groups, ...), or back."""
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    return blocks.transpose(1, 2).reshape(-1, blocks.shape[1], *weight.shape[2:]).clone()


# --- correlation -----------------------------------------------------------------------------------------------------


def correlation(model: nn.Module, inputs: Tensor | Sequence[Tensor]) -> dict[str, float]:
    """Return how similar the units of each layer are: the mean correlation of their pre-activations over a batch.

    Near 0, units are diverse; near 1, all of them are one unit up to scale and shift, and the layer is as good as one
    unit wide. A layer is a linear or convolutional module, its pre-activations are what it returns, and every position
    of an image (or a sequence) is a sample. Eval mode; the model is left as it was. Time and memory grow with samples ×
    units: Σ_{i≠j} corr(i, j) = Var(Σ_i z_i) - units for standardised pre-activations z, without the matrix.

    Args:
        model: any module with linear or convolutional ones inside.
        inputs: a tensor (B, ...) or a tuple of positional ones. Few samples give a noisy mean: take a hundred or more.

    Returns:
        {path of the layer: mean of Pearson's correlation over all pairs of units}, in the order of evaluation. Units
        that do not vary over the batch have no correlation and are left out; NaN where fewer than two vary. For a layer
        that is used several times, the mean over its uses.

    Raises:
        TypeError, ValueError: the arguments are not a module and a batch of tensors.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(8, 100), nn.ReLU(), nn.Linear(100, 100))
        >>> _ = net[2].weight.data.abs_()
        >>> {layer: round(value, 1) for layer, value in correlation(net, torch.randn(500, 8)).items()}
        {'0': 0.0, '2': 0.9}
    """
    inner, batch = unwrap(model), as_example(inputs)
    found: dict[str, list[float]] = {}

    def recorder(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(layer: nn.Module, _: Any, output: Tensor) -> None:
            channels = 1 if isinstance(layer, CONVOLUTIONS) else -1
            samples = output.detach().movedim(channels, -1)
            found.setdefault(path, []).append(mean_correlation(samples.reshape(-1, samples.shape[-1])))

        return record

    with calling(inner):
        handles = [
            layer.register_forward_hook(recorder(path))
            for path, layer in inner.named_modules()
            if isinstance(layer, (nn.Linear, *CONVOLUTIONS))
        ]
        try:
            inner(*batch)
        finally:
            for handle in handles:
                handle.remove()
    return {path: sum(values) / len(values) for path, values in found.items()}


def mean_correlation(samples: Tensor) -> float:
    """The mean off-diagonal entry of the correlation matrix of (samples, units), without that matrix.

    Example:
        >>> x = torch.randn(100)
        >>> mean_correlation(torch.stack([x, 2 * x + 1, torch.ones(100)], dim=1))
        1.0
    """
    rounding = 8 * torch.finfo(samples.dtype).eps  # a constant unit may differ by this much from row to row
    exact = samples.double()
    centred = exact - exact.mean(0)
    spread = centred.square().mean(0).sqrt()
    varying = spread > rounding * exact.abs().amax(0)
    units = int(varying.sum())
    if units < 2:
        return float("nan")
    together = (centred[:, varying] / spread[varying]).sum(1)
    return float((together.square().mean() - units) / (units * (units - 1)))

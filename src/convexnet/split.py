"""`split`: any network of linear maps, ReLU and maxima as p − q, with p and q convex and certified.

Convexity does not restrict what such a network can classify: adding Σⱼ qⱼ to every logit makes each of them convex
and changes neither argmax nor softmax (`shifted`). What it costs is accuracy: p and q grow exponentially with depth
while p − q does not, so the error of float64 is measured, and a split that is not one is refused.

How it is done is in `differences`: the traced program, executed on pairs (p, q).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convexnet.curvature import certify
from convexnet.curvature.adversary.falsify import default_double
from convexnet.curvature.arguments import chosen_inputs, copy_module, unwrap
from convexnet.curvature.findings import Finding, not_finite, state_findings
from convexnet.curvature.tracing.restored_state import evaluating, in_eval_mode, restored_settings
from convexnet.curvature.tracing.traceable_models import check_model
from convexnet.differences.arithmetic import parts_of
from convexnet.differences.convex_part import ConvexPart, trace_for_rows
from convexnet.errors import NotCertified, NotTraceable
from convexnet.memory import example_of, remember_example

LIMIT = 1e-6
"""The relative error above which p − q is no longer called the model."""

BATCHES = (1, 2, 13)
"""Sizes of the batches the error is measured on: a draw, the example, and more draws with zeros among them."""


class _Two(NamedTuple):
    p: nn.Module
    q: nn.Module


class Split(_Two):
    """Two convex modules whose difference is the model: unpacks into `p, q`.

    Attributes:
        p, q: the modules, in float64 and eval mode.
        error: the largest measured |f − (p − q)| / (1 + |f|), f being the model in float64.

    Example:
        >>> pair = split(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)))
        >>> len(pair), pair.error < 1e-12
        (2, True)
    """

    error: float = math.nan


# --- split -----------------------------------------------------------------------------------------------------------


def split(model: nn.Module, example: Tensor | Sequence[Tensor] | None = None) -> Split:
    """Write a network of linear maps, ReLU and maxima as p − q, with p and q convex.

    For linear layers and convolutions with weights of any sign, BatchNorm (eval mode), ReLU, leaky ReLU of any slope,
    PReLU, |x|, clamps, maxima and minima, max- and average pooling, skips, concatenation, and whatever only moves
    elements. Both parts are certified. They take what the model takes, at any batch size, and return float64.

    The rules are relu(p − q) = max(p, q) − q and W(p − q) = (W⁺p + W⁻q) − (W⁻p + W⁺q) with W = W⁺ − W⁻. They hold in
    real arithmetic; in float64 an error remains, which grows exponentially with depth, for p and q grow with products
    of |W| and p − q with products of W. It is measured in eval mode on 16 samples, in batches of 1, 2 and 13: zeros,
    the first two rows of the example, and 13 standard normal draws from a fixed seed. It is not a bound: give rows of
    your data as the example, or measure on your own.

    Args:
        model: a module of the operators above, with one real tensor (B, ...) as its output. It is left untouched.
        example: a tensor (B, ...) or a tuple of positional tensors. None: the one the model remembers, or a guess from
            its first layer.

    Returns:
        The pair (p, q) of modules, with the measured `error`.

    Raises:
        NotCertified: an operator that cannot be split (GELU, softmax, a product of two features, LayerNorm), with path,
            source line and remedy; or the measured error exceeds 1e-6.
        NotTraceable: `torch.export` cannot record the forward, or it depends on the size of the batch.
        ValueError, TypeError: wrong arguments, or more than one output.

    Source: Hartman, On functions representable as a difference of convex functions (1959).

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> p, q = split(net)
        >>> x = torch.randn(5, 2)
        >>> torch.allclose(p(x) - q(x), net(x).double(), atol=1e-5)
        True
        >>> certify(p, x).convex, certify(q, x).convex
        (True, True)
    """
    p, inputs = decompose(model, example)
    q = p.other("q")
    for part in (p, q):
        require_certificate(part, inputs)
    pair = Split(p, q)
    pair.error = p.error
    return pair


def shifted(model: nn.Module, example: Tensor | Sequence[Tensor] | None = None) -> nn.Module:
    """The convex classifier that an ordinary one is: logits fₖ + Σⱼ qⱼ = pₖ + Σ_{j≠k} qⱼ, with the same softmax.

    Every logit is convex in the input, and all are shifted alike, so that argmax and softmax are the model's. This is
    tier T0: it shows that convexity does not restrict a classifier with two or more outputs, only its size.

    Args:
        model: a classifier with logits (B, K), K >= 2, of the operators that `split` knows.
        example: as for `split`.

    Returns:
        A certified module with float64 logits (B, K). Its `error` is measured on the same samples as that of `split`,
        on logits less their mean over the classes.

    Raises:
        NotCertified, NotTraceable, ValueError, TypeError: as for `split`; and the logits are not (B, K) with K >= 2.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> convex, x = shifted(net), torch.randn(5, 2)
        >>> torch.allclose(convex(x).softmax(1), net(x).softmax(1).double(), atol=1e-6)
        True
    """
    module, inputs = decompose(model, example, shift=True)
    require_certificate(module, inputs)
    return module


# --- how -------------------------------------------------------------------------------------------------------------


def decompose(
    model: nn.Module, example: Tensor | Sequence[Tensor] | None, shift: bool = False
) -> tuple[ConvexPart, tuple[Tensor, ...]]:
    """The part p (or the shifted logits) with its measured error, and the inputs it was made on."""
    inner = unwrap(model)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in example_of(inner, example))
    chosen_inputs(inputs, None)  # some input must be real
    twin = in_float64(inner)
    program, rows = trace_for_rows(twin, inputs)
    refuse(program.model, (*not_finite(program), *state_findings(program)))
    part = ConvexPart(program, rows, "p")
    findings: list[Finding] = []
    with torch.no_grad():
        part.difference(inputs, findings)
    refuse(program.model, findings)
    remember_example(part, inputs)
    if shift:
        part = part.other("shifted")
        with torch.no_grad():
            logits = part.other("p")(*inputs)
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(
                f"{program.model} returns {tuple(logits.shape[1:])} numbers a sample: a common shift of the "
                "logits needs two or more classes, as (B, K)"
            )
    part.error = measure_error(twin, part, inputs)
    if not part.error <= LIMIT:
        if not is_row_independent(twin, inputs):
            raise NotTraceable(
                f"{program.model} gives a row other values in a batch of another size: it is not a function of one "
                "sample"
            )
        raise NotCertified(
            f"{program.model} is not p - q in float64: on sampled inputs they differ by {part.error:.2g} of 1 + |f|, "
            f"and {LIMIT:g} is the limit. p and q grow exponentially with depth (with products of |W|), and so does "
            "what rounding loses: split a shallower or narrower network, or make it convex itself with constrain"
        )
    return part, inputs


def in_float64(model: nn.Module) -> nn.Module:
    """A frozen copy in float64 and eval mode."""
    check_model(model)
    with evaluating(model):
        twin = copy_module(model)
    return twin.double().requires_grad_(False)


def refuse(model: str, findings: Sequence[Finding]) -> None:
    if findings:
        raise NotCertified(
            f"NOT SPLIT: {model} is not a network of linear maps, ReLU and maxima\n" + "\n".join(map(str, findings)),
            tuple(findings),
        )


def require_certificate(part: ConvexPart, inputs: Sequence[Tensor]) -> None:
    """Require the certificate of a part."""
    certificate = certify(part, tuple(inputs))
    if not certificate:
        try:
            certificate.require()
        except NotCertified as error:
            message = f"the part {part.wanted} of the split is not proved convex: {error}"
            raise NotCertified(message, certificate.findings) from error


@torch.no_grad()
def measure_error(model: nn.Module, part: ConvexPart, inputs: Sequence[Tensor]) -> float:
    """The largest |f − (p − q)| / (1 + |f|) on the samples; of shifted logits, |f − s| after centring both."""
    worst: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for size in BATCHES:
        batch = [sample_batch(tensor, size, generator) for tensor in inputs]
        try:
            f = value_in_float64(model, batch)
            if part.wanted == "shifted":
                logits = part(*batch)
                difference = (logits - logits.mean(1, keepdim=True)) - (f - f.mean(1, keepdim=True))
            else:
                p, q, _ = parts_of(part.difference(batch))
                difference = f - (p if q is None else p - q)
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[0][:300]
            raise NotTraceable(
                f"{type(model).__name__} fails on a batch of {size}: {cause}; write its forward for any x.shape[0]"
            ) from error
        worst.append((difference.abs() / (1 + f.abs())).max())
    return float(torch.stack(worst).max())


def value_in_float64(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """The model in float64, including the tensors that its forward makes."""
    with restored_settings(), in_eval_mode(model), default_double():
        return model(*batch)


@torch.no_grad()
def is_row_independent(model: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether a model gives the last rows of a batch the values that they have alone.

    Values that overflow say nothing: which of them are infinite and which are not numbers depends on the order in which
    products are added up, and that on the size of the batch.
    """
    batch = [sample_batch(tensor, max(BATCHES), torch.Generator().manual_seed(0)) for tensor in inputs]
    whole = value_in_float64(model, batch)
    found = [(value_in_float64(model, [tensor[-size:] for tensor in batch]), whole[-size:]) for size in BATCHES]
    finite = [(few.isfinite() & many.isfinite(), few, many) for few, many in found]
    return all(torch.allclose(few[mask], many[mask], rtol=1e-6, atol=1e-6) for mask, few, many in finite)


def sample_batch(tensor: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A batch like an input: its own rows, or draws (and zeros first). What is not floating is repeated."""
    rows = tensor[torch.arange(size, device=tensor.device) % tensor.shape[0]]
    if size == tensor.shape[0] or not tensor.is_floating_point():
        return rows
    draws = torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
    if size == max(BATCHES):
        draws[0] = 0.0
    return draws.to(rows.device)

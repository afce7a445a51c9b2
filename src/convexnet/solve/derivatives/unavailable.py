"""Derivatives that are not available: found out at the call where it is known there, and said in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad

from convexnet.curvature.tracing.graph import base_name, module_path, source_line
from convexnet.domains import Box
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.program import OpenedProgram
from convexnet.solve.compiled import Reading
from convexnet.solve.functions.matrix_free import MatrixFree
from convexnet.solve.functions.problem import Function


def check_derivatives(reading: Reading, f: Function, name: str, inputs: Sequence[Tensor], box: Box) -> None:
    """Refuse tensors that ask for derivatives which are not available.

    Only those that are given with the call: that parameters of a module take part is its ordinary state, and no wish.

    Raises:
        ValueError: an input or a bound takes part in autograd, and the functions are not known as matrices.
    """
    known = isinstance(f, EpigraphForm) or (isinstance(f, MatrixFree) and f.smooth)
    if not known and any(t.requires_grad for t in [*inputs, box.lo, box.hi]):
        raise ValueError(explain_missing(f, reading, name))


def check_transforms(tensors: Sequence[Any]) -> None:
    """Refuse to run inside of transforms that do not see through a solver.

    Raises:
        NotImplementedError: a transform of torch.func (vmap, grad, jacrev) or forward-mode differentiation is at work.
    """
    inside = torch._C._functorch.peek_interpreter_stack() is not None or any(map(is_batched, tensors))  # pyright: ignore
    if inside or any(has_tangent(t) for t in tensors if isinstance(t, Tensor)):
        raise NotImplementedError(
            "minimise, and the backward pass of a minimum, do not run inside of torch.func transforms (vmap, grad, "
            "vjp, jvp, jacrev, hessian, vectorize=True) or forward-mode differentiation: give the samples as a batch, "
            "which is solved at once, and use backward(), torch.autograd.grad or torch.autograd.functional"
        )


def is_batched(tensor: Any) -> bool:
    """Whether a tensor stands for those of all gradients at once (`is_grads_batched`)."""
    return isinstance(tensor, Tensor) and torch._C._functorch.is_legacy_batchedtensor(tensor)  # pyright: ignore


def has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode differentiation goes through a tensor."""
    if forward_ad._current_level < 0:  # pyright: ignore
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None


def explain_no_second(opened: OpenedProgram, inputs: Sequence[Tensor], k: int, sample: int) -> str:
    """The error for a second derivative that does not exist: a sample sits on the kink of atom k."""
    where = opened.origins([tensor[:1] for tensor in inputs])[k]
    return (
        f"second derivatives of this minimum are not available: the minimiser of sample {sample} sits on a kink of "
        f"{describe_operator(where)}, where only first derivatives exist. Use a smooth activation (softplus) with a "
        'quadratic term, or derivative="smoothed"'
    )


def explain_many_variables(f: Function) -> str:
    """The error for a second derivative where the first was found without matrices."""
    size = f.size if isinstance(f, MatrixFree) else "many"
    return (
        f"second derivatives of this minimum are not available: it has {size} variables or maps that are too large for "
        'the matrices that they need. Use derivative="unrolled"'
    )


def explain_many_meet(
    opened: OpenedProgram, inputs: Sequence[Tensor], sample: int, rows: Sequence[tuple[int, int]]
) -> str:
    """Why a minimiser has no derivative: more kinks and bounds meet there, by the number of an atom (-1: the domain)
    and the place in it, than are needed to hold it."""
    origins = opened.origins([tensor[:1] for tensor in inputs])
    atoms = sorted({k for k, _ in rows if k >= 0})
    places = [f"{len({j for b, j in rows if b == k})} of {describe_operator(origins[k])}" for k in atoms]
    bounds = len({j for k, j in rows if k < 0})
    places += [f"{bounds} bounds of the domain"] if bounds else []
    return (
        f"the minimiser of sample {sample} has no derivative: more kinks meet there than are needed to hold it "
        f"({'; '.join(places) or 'a norm at zero among them'}), and it moves with others of them in other directions. "
        "The value has derivatives to one side each, and its gradient is one of those between. Shift a bias or a bound "
        'a little, or use derivative="smoothed"'
    )


def explain_uncertain(sample: int) -> str:
    """Why a minimiser has no derivative here: in double precision it is open which kinks and bounds hold it."""
    return (
        f"the derivative of the minimiser of sample {sample} cannot be told: which kinks and bounds hold it is not "
        "certain in double precision, because slopes or sides of the domain differ too much in size. Give the "
        'variables units in which they do not, or use derivative="smoothed"'
    )


def describe_operator(node: fx.Node) -> str:
    """An operator with its module and its line."""
    path, line = module_path(node), source_line(node)
    place = ", ".join(part for part in (f"layer {path}" if path else "", line) if part)
    return f"{base_name(node.target)} ({place or 'no source line'})"


def explain_missing(f: Function, reading: Reading, name: str) -> str:
    """Why there are no derivatives at all."""
    if isinstance(f, MatrixFree):
        why = (
            f"it has {f.size} variables or maps that are too large for the matrices that derivatives need, and kinks; "
            "those of a smooth network (softplus for relu) need none"
        )
    elif reading.opened is None:
        why = "its forward, or an operator of torch in it, reads the size of its batch"
    else:
        why = "it was minimised as a whole, without being opened at its atoms"
    return (
        f"derivatives of this minimum of {reading.program.model} (solver {name!r}) are not available: {why}. "
        'Call minimise under torch.no_grad() if you need none, or use derivative="unrolled"'
    )

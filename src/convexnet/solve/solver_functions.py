"""From a module to the functions that solvers see: certified, and opened at its atoms as far as it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from convexnet.curvature.call import Refusal
from convexnet.curvature.tracing.trace import TRACING
from convexnet.errors import NotCertified, NotTraceable
from convexnet.form.epigraph import EpigraphForm
from convexnet.form.matrices import Pieces, TooLarge
from convexnet.form.program import OpenedProgram
from convexnet.solve.arguments import Arguments, explain_wrong_batch, output_of, tracing_error
from convexnet.solve.compiled import Reading, reading_of
from convexnet.solve.functions.black_box import OwnForward, PrivateCopy, WholeProgram
from convexnet.solve.functions.matrix_free import MatrixFree
from convexnet.solve.functions.problem import Problem
from convexnet.solve.functions.strong_convexity import strong_convexity
from convexnet.solve.lower_bounds import is_supported
from convexnet.solve.solvers.choose import ENTRIES, MANY, MATRICES, WITHOUT_MATRICES

FEW = 4
"""Samples of which it is looked up, once, that the atoms of a network prove something."""


def read_module(arguments: Arguments) -> Reading:
    """The reading of the module that is minimised, new or kept.

    Raises:
        NotTraceable, ValueError: it cannot be traced; the error names the wrong argument, if there is one.
    """
    try:
        return reading_of(
            arguments.module, arguments.inputs, arguments.variable, arguments.owner, arguments.kind, arguments.readings
        )
    except NotTraceable as error:
        raise tracing_error(arguments, error) from error.__cause__


def check_certified(reading: Reading, arguments: Arguments) -> bool:
    """Whether f is convex in y everywhere; if only on the domain, False.

    Raises:
        NotCertified: neither.
        ValueError: it does not return one number for each sample.
    """
    certificate = reading.certificate
    program = reading.program
    outputs = [node.meta.get("val") if isinstance(node, fx.Node) else node for _, node in program.outputs]
    shape = tuple(outputs[0].shape) if len(outputs) == 1 and isinstance(outputs[0], Tensor) else None
    if shape not in ((2,), (2, 1)):
        one = f"a {type(outputs[0]).__name__}" if shape is None else f"an output of shape {shape_in_words(shape)}"
        what = f"{len(outputs)} outputs" if len(outputs) != 1 else one
        raise ValueError(
            f"{certificate.model} returns {what}, and only one number for each sample, (B,) or (B, 1), can be "
            f"minimised: {explain_wrong_batch(arguments) or 'wrap it in a module that picks or adds up what you mean'}"
        )
    if certificate.convex:
        return True
    local = reading.on(arguments.box.hull())
    if local.convex:
        return False
    raise NotCertified(
        f"cannot minimise over input {arguments.variable}: {local.headline()}\n" + "\n".join(map(str, local.findings)),
        local.findings,
    )


def shape_in_words(shape: tuple[int, ...]) -> str:
    """The shape for two samples as one for B of them."""
    return str(shape).replace("(2", "(B", 1) if shape[:1] == (2,) else f"{shape}, without a batch"


def problem_of(reading: Reading, arguments: Arguments, everywhere: bool) -> tuple[Problem, str]:
    """The batch of functions, in the best description that the module allows, and why there is no better one."""
    inputs = [tensor.detach() for tensor in arguments.inputs]
    lo, hi = arguments.lo, arguments.hi
    single = False
    if reading.pieces is None or reading.opened is None:
        closed = "its forward, or an operator of torch in it, reads the size of its batch"
    else:
        try:
            f, layers, closed = open_functions(reading.opened, reading.pieces, inputs, lo.shape[1], arguments.solver)
            whole = everywhere and not any(atom.partial for atom in f.atoms)
            if not (whole and "supported" in reading.shown):
                few = torch.arange(min(len(lo), FEW if whole else len(lo)), device=lo.device)
                if not is_supported(layers.rows(few), lo[few], hi[few], 1 if whole else 3):
                    raise Refusal("it is convex for a reason that its atoms do not show")
                reading.shown.add("supported" if whole else "")
        except Refusal as refusal:
            closed = refusal.reason
        except (RuntimeError, IndexError) as error:
            if takes_any_batch(reading.opened, inputs) and takes_any_batch(
                reading.opened, [tensor[:1] for tensor in inputs]
            ):
                raise error
            closed, single = "an operator has settings for one size of the batch", True
            out = output_of(arguments.module, inputs, inputs[arguments.variable].dtype)
            if out is None or out.numel() != len(lo):
                place = reading.opened.written_for_two(inputs) or "an operator"
                made = "fails with" if out is None else f"returns {out.numel()} numbers for"
                raise ValueError(
                    f"{reading.program.model} {made} a batch of {len(lo)}: {place} is written for a batch of two, as "
                    "y[[0, 1]] is, which takes two samples. The first dimension is the batch: write y[:, [0, 1]] for "
                    "two entries of every sample"
                ) from error
        else:
            strong = None
            if isinstance(f, EpigraphForm) and not f.piecewise_linear:
                strong = strong_convexity(reading.opened, inputs, f)
            return Problem(f, lo, hi, strong, layers), closed
    centre = None if everywhere else Problem(None, lo, hi).interior()
    whole = whole_program(reading, arguments, centre, single)
    if whole.pairs and not whole.symmetric(Problem(None, lo, hi).centre()):
        raise ValueError(
            "f does not treat the samples of a batch alike: it reads the size of its batch, or holds a tensor with a "
            "row for each sample of one. Give such a tensor as an input, in given"
        )
    return Problem(whole, lo, hi, None, whole), closed


def open_functions(
    opened: OpenedProgram, pieces: Pieces, inputs: list[Tensor], size: int, solver: str
) -> tuple[EpigraphForm | MatrixFree, MatrixFree, str]:
    """The functions of `size` variables as matrices, or without where these are too large; the functions as they are
    written; and what was too large for a solver that asks for matrices. All of them without what is constant.

    Raises:
        Refusal: an operator has no row among those that can be opened.
        RuntimeError, IndexError: an operator does not take a batch of this size.
    """
    closed = ""
    if solver in MATRICES or (size <= MANY and not spares_matrices(opened, inputs, size, solver)):
        still: dict[fx.Node, Any] = {}
        try:
            form = pieces.form(inputs, still)
        except TooLarge as large:
            closed = large.reason if solver in MATRICES else ""
        else:
            constant = torch.where(form.constant.isfinite(), form.constant, 0.0)
            whole = opened.gated  # the form was read with the batch itself
            layers = MatrixFree(opened, inputs, form.atoms, constant if whole else None)
            layers.still[len(inputs[0])] = still
            return replace(form, constant=0 * constant), layers if whole else layers.centred(), ""
    layers = MatrixFree(opened, inputs).centred()
    return layers, layers, closed


def spares_matrices(opened: OpenedProgram, inputs: list[Tensor], size: int, solver: str) -> bool:
    """Whether a solver that was asked for by name can do without matrices that take long to read.

    With kinks it cannot: the derivatives of a minimum need them.
    """
    if solver not in WITHOUT_MATRICES:
        return False
    layers = MatrixFree(opened, [tensor[:2] for tensor in inputs])
    return layers.smooth and size * layers.width > ENTRIES


def takes_any_batch(opened: OpenedProgram, inputs: Sequence[Tensor]) -> bool:
    """Whether no operator has settings that fit to a batch of two only."""
    try:
        MatrixFree(opened, inputs).centred()
    except (RuntimeError, IndexError):
        return False
    return True


def whole_program(reading: Reading, arguments: Arguments, centre: Tensor | None, single: bool = False) -> WholeProgram:
    """The traced program as one function; `single` takes the one for a batch of two."""
    opened = reading.opened
    if opened is not None and not single:
        return WholeProgram(opened, arguments.inputs, centre=centre)
    pairs = OpenedProgram(reading.program, arguments.variable).valued(reading.values)
    return WholeProgram(pairs, arguments.inputs, pairs=True, centre=centre)


def own_forward(reading: Reading, arguments: Arguments, kind: type[OwnForward] = OwnForward) -> OwnForward:
    """The module's own forward as it was read, for the inputs of a batch; `kind` is what adds to its values."""
    copy = reading.itself
    if copy is None or copy.worn:
        with TRACING:
            copy = PrivateCopy(arguments.module)
    return kind(copy, arguments.inputs, arguments.variable, whole_program(reading, arguments, None))

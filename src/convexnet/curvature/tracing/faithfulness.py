"""Whether a traced program computes what its module computes when it is simply called.

Export runs a forward on tensors without values, and a forward may notice: it may catch the error of a branch on values,
ask whether it is being traced, or look at modes, types and counters that are others in ordinary use. So the program and
the module are run on the same rows, and the module is called again, under `calling`, which puts everything back. Rows
show no branch that none of them takes; a branch on values whose error the forward has caught is seen by
`caught_errors`.

A comparison costs forwards. Where these are cheap everything is compared, elsewhere what the code of the forward gives
reason to (`bytecode_suspicions`).

Long because what is run, on which rows, and what is said of a difference are read together.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from convexnet.curvature.arguments import copy_module, in_float64
from convexnet.curvature.fields import BATCH
from convexnet.curvature.rules.opaque_operators import is_transform
from convexnet.curvature.tracing.bytecode_suspicions import (
    AGAIN,
    BATCHES,
    GRADIENTS,
    SIZES,
    TRACED,
    TYPES,
    find_suspicions,
)
from convexnet.curvature.tracing.graph import base_name, draws, nodes_behind
from convexnet.curvature.tracing.restored_state import calling, restored_settings, silence_thread
from convexnet.curvature.tracing.traceable_models import unregistered_attributes
from convexnet.errors import NotTraceable

if TYPE_CHECKING:
    from convexnet.curvature.tracing.trace import Program

CHEAP = 3e7
"""Multiplications of a forward that is compared whatever its code is: a small share of what tracing it costs."""

OVERHEAD = 1e5
"""Multiplications that take as long as starting one operator."""

ROUNDING: Mapping[torch.dtype, float] = {torch.float16: 0.05, torch.bfloat16: 0.1}
"""How far two ways to compute the same may be apart, as a share of the largest entry, in types less precise than
float32; there 1e-3."""

Leaves = list[Any] | None
Rows = Sequence[Tensor]


@dataclass(frozen=True)
class Traced:
    """What a program returns (None where it fails), and how far rounding may take it: sums that cancel are off by a
    share of their terms. The latter is found out where results are not the same to the last bit."""

    leaves: Leaves
    sizes: Callable[[], float] = float

    @functools.cached_property
    def rounding(self) -> float:
        return self.sizes()


DRAWS = ((1.0, 0), (0.03, 0), (1.0, 1), (1.0, -1), (30.0, 1), (30.0, -1), (1.0, 0))
"""Sizes of random rows, and their sign (0: both signs)."""

FIRST = ((1.0, 0), (1.0, 1), (1.0, -1))
"""Those that are tried, where forwards take long, until the first row tells something."""

WHILE_TRACED = (
    "it computes something else when it is called than when it is traced: its forward tests whether it is traced "
    "or compiled, or catches errors that tracing raises; compute the same in both cases"
)
FROM_CALL_TO_CALL = (
    "called again on the same rows, it computes something else: its forward counts its calls, or reads what an earlier "
    "call has left; pass what changes as an input"
)
WITH_GRADIENTS = (
    "it computes something else when gradients are recorded: its forward tests for that (torch.is_grad_enabled, "
    "requires_grad); compute the same in both cases"
)
IN_FLOAT64 = (
    "it computes something else in float64: its forward branches on the type of its input, and a proof would hold for "
    "the example's type alone; compute the same for all types"
)
IN_BATCHES = (
    "it computes something else of the same row in a batch of {}: its forward reads the size of its batch; compute "
    "each row alone"
)


Run = Callable[["Program", Rows], Traced]


class NotFaithful(Exception):
    """In words: when the module differs from its program, and what to do."""


def check_faithful(model: nn.Module, program: Program) -> None:
    """Compare a program with its module, on the rows of the example and on others.

    Raises:
        NotTraceable: they differ by more than rounding: when they do, and what to do.

    Example:
        >>> from convexnet.curvature.tracing.trace import trace
        >>> class Knowing(nn.Module):
        ...     def forward(self, x):
        ...         return x.abs() if torch.compiler.is_exporting() else -x.abs()
        >>> trace(Knowing(), torch.ones(1, 2))
        Traceback (most recent call last):
        ...
        convexnet.errors.NotTraceable: Knowing differs from its traced program: it computes something else when ...
    """
    if not is_comparable(program):
        return
    cheap = cost(program) <= CHEAP
    reasons = frozenset((TRACED, AGAIN, GRADIENTS, TYPES, BATCHES)) if cheap else find_suspicions(model)
    if not cheap and counts_rows(program):
        reasons |= {SIZES}
    if not reasons:
        return
    try:
        with silence_thread(), restored_settings(), torch.no_grad():
            compare(model, program, reasons, cheap)
    except NotFaithful as different:
        raise NotTraceable(f"{type(model).__name__} differs from its traced program: {different}") from None


def is_comparable(program: Program) -> bool:
    """Whether the program's tensors are at hand, and what it computes is no matter of chance (which is a finding)."""
    read = nodes_behind(leaf for _, leaf in program.outputs if isinstance(leaf, fx.Node))
    regions = [part for part in program.module.modules() if isinstance(part, fx.GraphModule)]
    inner = [node for part in regions if part is not program.module for node in part.graph.nodes]
    random = any(node.op == "call_function" and draws(node) for node in (*read, *inner))
    held = all(source.kind == "input" or source.tensor is not None for source in program.sources.values())
    return held and not random and not program.draws


def executable(program: Program) -> bool:
    """Whether a program can be executed operator by operator."""
    return all(is_plain(node.target) for node in program.graph.nodes if node.op == "call_function")


def is_plain(target: Any) -> bool:
    """Whether an operator can be called by itself: those of torch.vmap open and close a transform."""
    name = base_name(target)
    if isinstance(target, OpOverload):
        return not is_transform(name)
    return name in REGIONS or getattr(target, "__module__", "") in ("_operator", "math", "torch")  # of numbers


REGIONS = tuple(
    f"higher_order::{name}" for name in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "while_loop")
)
"""Operators that hold a graph of their own."""


def cost(program: Program) -> float:
    """About how many multiplications an execution takes."""
    total = 0.0
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, Tensor):
            continue
        shapes = [
            other.meta["val"].shape for other in node.all_input_nodes if isinstance(other.meta.get("val"), Tensor)
        ]
        weights = [shape.numel() / shape[0] for shape in shapes[1:] if len(shape) > 1 and shape[0]]
        total += OVERHEAD + value.numel() * max(weights, default=1.0)
    return total


def compare(model: nn.Module, program: Program, reasons: frozenset[str], cheap: bool) -> None:
    """Raise `NotFaithful` where the module is not its program. Where a forward takes long there are few of them.

    Where a program cannot be executed, nothing is at hand but the module, which is then compared with itself.
    """
    open_ = executable(program)

    def run(program: Program, rows: Rows) -> Traced:
        found = execute_program(program, rows) if open_ else Traced(None)
        if found.leaves is None:
            with calling(model):
                return Traced(call_module(model, rows))
        return found

    known, traced = run_traced(program, run, cheap)
    rows, of = known[0], traced[0]
    if any(is_empty(node) for node in program.graph.nodes) and differ(execute_program(program, rows, 1.0).leaves, of):
        return  # it reads memory that nothing was written to, which is a finding
    again = AGAIN in reasons and not program.rewritten
    with calling(model):
        one = not cheap and len(reasons) == 1 and reasons <= {GRADIENTS, SIZES}
        short = one and agrees_alone(model, rows, of)
        first = None if short else call_module(model, known[0])
        if again and differ(call_module(model, known[0]), Traced(first, lambda: traced[0].rounding)):
            raise NotFaithful(FROM_CALL_TO_CALL)
        if differ(first, traced[0]):
            raise NotFaithful(WHILE_TRACED)
        if program.rewritten:  # from now on it is another function, which is a finding
            return
        if any(differ(call_module(model, known[i]), traced[i]) for i in range(1, len(known))):
            raise NotFaithful(WHILE_TRACED)
        if cheap and differ(call_with_gradients(model, rows), of):
            raise NotFaithful(WITH_GRADIENTS)
        if (
            not cheap
            and GRADIENTS in reasons
            and depends_on_batch(model, program, rows, of, 1, run, call_with_gradients)
        ):
            differs = depends_on_batch(model, program, rows, of, 1, run)
            raise NotFaithful(IN_BATCHES.format(1) if differs else WITH_GRADIENTS)
        sizes = (1, BATCH + 1) if BATCHES in reasons else (1,) if SIZES in reasons and not short else ()
        for size in sizes:
            if depends_on_batch(model, program, rows, of, size, run):
                raise NotFaithful(IN_BATCHES.format(size))
    if TYPES in reasons and not all(tensor.dtype == torch.float64 for tensor in rows):
        if differ(call_in_float64(model, rows), of, 0.05):
            raise NotFaithful(IN_FLOAT64)


def run_traced(program: Program, run: Run, cheap: bool) -> tuple[list[tuple[Tensor, ...]], list[Traced]]:
    """Rows, and what the program makes of them. The example comes last: of zeros many functions are zero."""
    known: list[tuple[Tensor, ...]] = [program.inputs]
    generator = torch.Generator().manual_seed(0)
    at_will = all(tensor.device.type == "cpu" for tensor in program.inputs)  # a wrong index would end CUDA's context
    if at_will and cheap:
        known = [tuple(draw_rows_like(t, size, sign, generator) for t in program.inputs) for size, sign in DRAWS][
            ::-1
        ] + known
    traced = [] if at_will and not cheap else [run(program, rows) for rows in known]
    for size, sign in FIRST if not traced else ():
        known = [tuple(draw_rows_like(t, size, sign, generator) for t in program.inputs)]
        traced = [run(program, known[0])]
        if is_informative(traced[0]):
            break
    return known, traced


def is_informative(traced: Traced) -> bool:
    """Whether the first row of a result is not zero throughout: of zeros a function may be the negative."""
    leaves = [leaf for leaf in traced.leaves or () if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return any(bool((leaf[:1] if leaf.ndim else leaf).any()) for leaf in leaves)


def counts_rows(program: Program) -> bool:
    """Whether a forward takes a batch apart into its rows, as a loop over a tensor does, and so may count them."""
    for node in program.graph.nodes:
        parts = node.meta.get("val")
        if node.op == "call_function" and isinstance(parts, (list, tuple)) and len(node.all_input_nodes) == 1:
            shape = getattr(node.all_input_nodes[0].meta.get("val"), "shape", ())
            single = (tuple(shape[1:]), (1, *shape[1:]))
            if shape[:1] == (BATCH,) and any(tuple(getattr(part, "shape", ())) in single for part in parts):
                return True
    return False


def draw_rows_like(tensor: Tensor, size: float, sign: int, generator: torch.Generator) -> Tensor:
    """Random rows like those of a tensor of real numbers; indices and masks stay as they are."""
    if not tensor.is_floating_point():
        return tensor
    rows = size * torch.randn(tensor.shape, generator=generator)
    return (sign * rows.abs() if sign else rows).to(tensor)


def leaf(tensor: Tensor) -> Tensor:
    """A tensor that gradients flow to, and that may be overwritten."""
    with torch.enable_grad():
        return tensor.clone().requires_grad_().clone() if tensor.is_floating_point() else tensor


def call_module(model: nn.Module, rows: Rows) -> Leaves:
    """What the module returns; None where it fails: it does not take such rows, and nothing is claimed of them."""
    try:
        out = model(*(tensor.clone() for tensor in rows))
        return [part.detach() if isinstance(part, Tensor) else part for part in pytree.tree_leaves(out)]
    except Exception:
        return None


def call_with_gradients(model: nn.Module, rows: Rows) -> Leaves:
    """What the module returns where gradients are recorded."""
    with torch.enable_grad():
        return call_module(model, [leaf(tensor) for tensor in rows])


def call_in_float64(model: nn.Module, rows: Rows) -> Leaves:
    """What a float64 copy of the module returns; None where there is none, or it fails."""
    try:
        twin = copy_module(model).double()
    except Exception:
        return None
    if any(isinstance(held, nn.Module) for _, held in unregistered_attributes(twin)):
        return None  # it would run modules of the caller's
    with calling(twin):
        return call_module(twin, [in_float64(tensor) for tensor in rows])


def is_empty(node: fx.Node) -> bool:
    """Whether a node takes memory as it is."""
    return node.op == "call_function" and base_name(node.target).startswith(("empty", "new_empty"))


def execute_program(program: Program, rows: Rows, memory: float = 0.0) -> Traced:
    """What the program returns, where memory that nothing was written to holds a certain number."""

    def sizes() -> float:
        found = [0.0]
        run_through(program, rows, memory, lambda part: found.append(size_of(part)))
        return max(found)

    return Traced(run_through(program, rows, memory), sizes)


def run_through(program: Program, rows: Rows, memory: float, see: Callable[[Any], object] | None = None) -> Leaves:
    """Execute a program, and `see` what each of its operators returns."""
    env: dict[fx.Node, Any] = {}
    left = {node: len(node.users) for node in program.graph.nodes}
    try:
        for node in program.graph.nodes:
            if node.op == "placeholder":
                source = program.sources[str(node.target)]
                env[node] = rows[source.index] if source.kind == "input" else source.tensor
            elif node.op == "get_attr":
                env[node] = operator.attrgetter(str(node.target))(program.module)
            elif node.op == "call_function":
                args: Any = fx.map_arg(node.args, env.__getitem__)
                kwargs: Any = fx.map_arg(node.kwargs, env.__getitem__)
                function: Any = node.target
                env[node] = made = function(*args, **kwargs)
                if is_empty(node):
                    made.fill_(memory)
                if see is not None:
                    for part in made if isinstance(made, (list, tuple)) else (made,):
                        see(part)
            for other in node.all_input_nodes if node.op != "output" else ():
                left[other] -= 1
                if not left[other]:
                    del env[other]
        return [env[part].detach() if isinstance(part, fx.Node) else part for _, part in program.outputs]
    except Exception:
        return None


def size_of(value: Any) -> float:
    """What one rounding makes of the largest entry of a real tensor, many times over."""
    if isinstance(value, Tensor) and value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return 0.0
    low, high = value.aminmax()
    size = max(abs(float(low)), abs(float(high)))
    return 256 * torch.finfo(value.dtype).eps * size if size < LARGE else 0.0


def depends_on_batch(
    model: nn.Module,
    program: Program,
    rows: Rows,
    traced: Traced,
    size: int,
    run: Run,
    call: Callable[..., Leaves] = call_module,
) -> bool:
    """Whether the module computes something else of rows in a batch of another size, of which the program takes each
    alone."""
    order = [i % BATCH for i in range(size)]
    found = call(model, [tensor[order] for tensor in rows])
    if found is None or traced.leaves is None or len(found) != len(traced.leaves):
        return False
    other: list[tuple[int, Tensor]] = []
    for i, (one, of) in enumerate(zip(found, traced.leaves, strict=True)):
        if isinstance(one, Tensor) and isinstance(of, Tensor) and of.ndim and of.shape[0] == BATCH:
            if of[order].shape == one.shape and are_apart(one, of[order], traced):
                other.append((i, of))
    alone = run(program, [tensor[[0, 0]] for tensor in rows]).leaves if other else None
    return alone is not None and any(not are_apart(of[:1], alone[i][:1], traced) for i, of in other)


def agrees_alone(model: nn.Module, rows: Rows, traced: Traced) -> bool:
    """Whether all that the module makes of the first row by itself is what the program makes of it: then half a forward
    has told that they agree. Where it is not so, nothing is said."""
    found = call_module(model, [tensor[:1] for tensor in rows])
    if found is None or traced.leaves is None or len(found) != len(traced.leaves):
        return False
    pairs = zip(found, traced.leaves, strict=True)
    return all(
        isinstance(a, Tensor) and isinstance(b, Tensor) and b.ndim > 0 and b.shape[0] == BATCH
        and a.shape == b[:1].shape and not are_apart(a, b[:1], traced)
        for a, b in pairs
    )  # fmt: skip


def differ(found: Leaves, traced: Traced, room: float = 0.0) -> bool:
    """Whether some real tensors of two results are not the same up to rounding, or up to a share of their size."""
    if found is None or traced.leaves is None:
        return False
    if len(found) != len(traced.leaves):
        return True
    pairs = [
        (a, b) for a, b in zip(found, traced.leaves, strict=True) if isinstance(a, Tensor) and isinstance(b, Tensor)
    ]
    return any(are_apart(a, b, traced, room) for a, b in pairs)


def are_apart(a: Tensor, b: Tensor, traced: Traced, room: float = 0.0) -> bool:
    """Whether two tensors differ by more than rounding. Where more room is given only numbers count, of one shape."""
    if a.shape != b.shape:
        return not room
    if not a.is_floating_point() or not b.is_floating_point() or not a.numel():
        return False
    share = max(room, *(ROUNDING.get(t.dtype, 1e-3) for t in (a, b)))
    a, b = a.double(), b.double()
    if torch.equal(a, b):  # most often they are, to the last bit
        return False
    both = (a.abs() < LARGE) & (b.abs() < LARGE)
    if not room and not torch.equal(a.isfinite(), b.isfinite()):
        return True
    a, b = torch.where(both, a, 0.0), torch.where(both, b, 0.0)
    return bool((a - b).abs().max() > share * torch.maximum(a.abs(), b.abs()).max() + traced.rounding + TINY)


LARGE, TINY = 1e30, 1e-30
"""Numbers that are compared: what lies beyond is the largest number of some type, as in a mask, or rounding."""

"""Derivatives of a minimum and of its minimiser.

The value moves with the affine function below f that touches it: its derivative is that of the network with every kink
replaced by its dual gate (an envelope theorem; autograd at the minimiser, which sits on kinks, is wrong). The minimiser
moves so that kinks and bounds that hold it go on holding it: with J the derivatives of the arguments of those kinks, H
the second derivative through smooth bends, and b, f the coordinates at bounds and the free ones,

    [ H_ff  J_f' ] [ dy_f ]      [ d(grad_f L) + H_fb dy_b ]
    [ J_f    0   ] [ dmu  ]  = - [ d(a)        + J_b  dy_b ]

where L is the network with dual gates. Without H this is the vertex formula, without J the implicit function theorem.
Everything is computed in the backward pass only, for the values that the network had in the forward pass.

Derivatives of these derivatives are right where no kink holds the minimiser (`implicit`), and an error elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad

from convexnet.curvature.graph import base_name, module_path, source_line
from convexnet.curvature.trace import TRACING
from convexnet.domains import Box
from convexnet.solve.bends import Bend
from convexnet.solve.choose import together
from convexnet.solve.drive import Found, Function, Problem
from convexnet.solve.holding import Held, gates_at, held_by
from convexnet.solve.implicit import derived, moved, once, standing
from convexnet.solve.kink_form import KinkForm
from convexnet.solve.layers import Layers
from convexnet.solve.opened import Opened, value_of
from convexnet.solve.reading import Reading, tensors_of
from convexnet.solve.settling import settled
from convexnet.solve.softened import units
from convexnet.solve.variants import barriers, softly

EXACT = ("newton", "newton in full", "lp")
"""Solvers whose gates say which kinks hold the minimiser."""


def sources_of(reading: Reading, module: nn.Module) -> list[Tensor]:
    """The tensors of a module that a solution depends on: its parameters, and what else its forward reads, as buffers,
    attributes and the tensors that took the place of parameters."""
    with TRACING:  # while a module is traced, it holds others
        own = {id(tensor): tensor for tensor in [*module.parameters(), *tensors_of(reading.program)]}
    return list(own.values())


def wants_gradients(own: Sequence[Tensor], inputs: Sequence[Tensor], box: Box) -> bool:
    """Whether anything a solution depends on takes part in autograd."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in [*inputs, box.lo, box.hi, *own])


@dataclass
class Minimum:
    """What the backward pass needs: all of it as it was in the forward pass.

    Attributes:
        reading: the module.
        f: the functions that were minimised.
        inputs: copies of the inputs.
        variable: the number of the one minimised over.
        found: minimisers and gates.
        lo, hi: copies of the bounds, (B, n).
        box: the domain.
        name: the solver.
        others: the numbers of the inputs that gradients go to.
        own: the module's tensors that they go to.
        exact: whether the gates say which kinks hold the minimiser.
        smoothed: whether x has the derivatives of the smoothed function.
    """

    reading: Reading
    f: Function
    inputs: list[Tensor]
    variable: int
    found: Found
    lo: Tensor
    hi: Tensor
    box: Box
    name: str
    others: list[int]
    own: list[Tensor]
    exact: bool
    smoothed: bool

    def aliases(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], dict[int, Tensor]]:
        """Stand-ins for the tensors that gradients go to, inputs and own ones, with the values of the forward pass;
        all inputs with them; the module's by `id`."""
        values = self.reading.values
        inputs = list(self.inputs)
        count = len(self.others)
        made: list[Tensor] = []
        for index, tensor in zip(self.others, tensors[:count], strict=True):
            inputs[index] = standing(tensor, self.inputs[index])
            made.append(inputs[index])
        live: dict[int, Tensor] = {}
        for own, tensor in zip(self.own, tensors[count:], strict=True):
            live[id(own)] = standing(tensor, values.get(id(own), own))
            made.append(live[id(own)])
        return made, inputs, live

    def form(self) -> KinkForm:
        """The functions as matrices.

        Raises:
            RuntimeError: they are not known that way.
        """
        if isinstance(self.f, KinkForm):
            return self.f
        raise RuntimeError(missing(self.f, self.reading, self.name))

    def settle(self, rows: Tensor | None = None) -> None:
        """Find the minimisers and their gates to the last digits, of all samples or some, in parts that fit."""
        form = self.form()
        rows = torch.arange(len(self.lo), device=self.lo.device) if rows is None else rows
        for part in rows.split(together(Problem(form, self.lo, self.hi))):
            few = settled(form.rows(part), rows_of_found(self.found, part), self.lo[part], self.hi[part])
            self.found.put(part, few)
        self.exact |= len(rows) == len(self.lo)


def rows_of_found(found: Found, rows: Tensor) -> Found:
    gates = None if found.gates is None else [gate[rows] for gate in found.gates]
    return Found(found.y[rows], found.value[rows], found.bound[rows], found.steps[rows], found.centre[rows], gates)


def attached(
    reading: Reading,
    f: Function,
    inputs: Sequence[Tensor],
    own: Sequence[Tensor],
    variable: int,
    box: Box,
    bounds: tuple[Tensor, Tensor],
    found: Found,
    used: Sequence[str],
    x: Tensor,
    value: Tensor,
    smoothed: bool = False,
) -> tuple[Tensor, Tensor]:
    """x (B, *shape) and value (B,) as functions of the other inputs, the module's tensors and the box.

    Args:
        reading: the module.
        f: the functions that were minimised.
        inputs: of the module, as they take part in autograd.
        own: the module's tensors.
        variable: the number of the input minimised over.
        box: the domain, as it takes part.
        bounds: of all samples, (B, n) each.
        found: points and gates.
        used: the solvers that found them.
        x, value: what is returned.
        smoothed: let x have the derivatives of the smoothed function.
    """
    others = [i for i, t in enumerate(inputs) if i != variable and t.requires_grad]
    own = [t for t in own if t.requires_grad]
    copies = [t.detach().clone() for t in inputs]
    lo, hi = (bound.detach().clone() for bound in bounds)
    exact = found.gates is not None and all(name in EXACT for name in used)
    kept = rows_of_found(found, torch.arange(len(lo), device=lo.device))
    at = Minimum(reading, f, copies, variable, kept, lo, hi, box, used[0], others, own, exact, smoothed)
    with torch.enable_grad():
        return Attach.apply(at, x, value, box.lo, box.hi, *(inputs[i] for i in others), *own)


def check_derivatives(reading: Reading, f: Function, name: str, inputs: Sequence[Tensor], box: Box) -> None:
    """Refuse tensors that ask for derivatives which are not available.

    Only those that are given with the call: that parameters of a module take part is its ordinary state, and no wish.

    Raises:
        ValueError: an input or a bound takes part in autograd, and the functions are not known as matrices.
    """
    if not isinstance(f, KinkForm) and any(t.requires_grad for t in [*inputs, box.lo, box.hi]):
        raise ValueError(missing(f, reading, name))


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


class Attach(torch.autograd.Function):
    """x and value as they are, with their gradients. What is saved is also x itself, so that gradients can move it."""

    @staticmethod
    def forward(ctx: Any, at: Minimum, x: Tensor, value: Tensor, lo: Tensor, hi: Tensor, *tensors: Tensor) -> Any:
        ctx.at = at
        x, value = x.clone(), value.clone()
        ctx.save_for_backward(x, lo, hi, *tensors)  # so that torch notices, too, when they have changed
        ctx.set_materialize_grads(False)
        return x, value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        to_x, to_value = grads
        at: Minimum = ctx.at
        x, lo, hi, *tensors = ctx.saved_tensors
        check_transforms([t for t in grads if t is not None])
        if at.smoothed:
            ends, others = smoothly(at, x, lo, hi, tensors, to_x, to_value)
        elif torch.is_grad_enabled():
            ends, others = again(at, x, lo, hi, tensors, to_x, to_value)
        else:
            ends, others = pulled_back(at, tensors, to_x, to_value)
        return None, None, None, *ends, *others


Gradients = tuple[tuple[Tensor, Tensor], list[Tensor]]
"""Those of both bounds, and those of the tensors."""


def pulled_back(at: Minimum, tensors: list[Tensor], to_x: Tensor | None, to_value: Tensor | None) -> Gradients:
    """Gradients of the bounds and of the other tensors, for those of x and of the value."""
    form, batch = at.form(), len(at.lo)
    with torch.no_grad():
        if not at.exact:
            at.settle()
        held: Held | None = None
        if to_x is not None:
            held = holding(at, to_x.reshape(batch, -1).double())
        gates = at.found.gates
        assert gates is not None
        to_lo, to_hi = torch.zeros_like(at.lo), torch.zeros_like(at.lo)
        if to_value is not None:
            smooth = any(bend.smooth for bend in form.bends)
            g = form.gradient(form.pulled(gates_at(form, gates, form.arguments(at.found.y)) if smooth else gates)[0])
            share = to_value.double()[:, None]
            to_lo, to_hi = to_lo + share * g.clamp(min=0), to_hi + share * g.clamp(max=0)
        if held is not None:
            to_lo, to_hi = to_lo + torch.where(held.low, held.to_y, 0.0), to_hi + torch.where(held.high, held.to_y, 0.0)
    others = through_program(at, tensors, to_value, held)
    return (shaped(to_lo, at.box.lo, at.box.shape), shaped(to_hi, at.box.hi, at.box.shape)), others


def holding(at: Minimum, to_x: Tensor) -> Held:
    """What holds the minimisers; where that is not sure, they are found to the last digits first."""
    form = at.form()
    if not at.exact:
        at.settle()
    gates = at.found.gates
    assert gates is not None
    held = held_by(form, at.found, gates, at.lo, at.hi, to_x)
    doubtful = (~held.sure).nonzero()[:, 0]
    if len(doubtful):
        at.settle(doubtful)
        part, bounds = rows_of_found(at.found, doubtful), (at.lo[doubtful], at.hi[doubtful])
        assert part.gates is not None
        held.put(doubtful, held_by(form.rows(doubtful), part, part.gates, *bounds, to_x[doubtful]))
    return held


def shaped(gradient: Tensor, bound: Tensor, shape: torch.Size) -> Tensor:
    """The gradient (B, n) as one of a bound, which has a batch of its own or not."""
    whole = gradient.view(-1, *shape)
    return whole.sum_to_size(bound.shape).to(bound)


# --- through the program ---------------------------------------------------------------------------------------------


def through_program(at: Minimum, tensors: list[Tensor], to_value: Tensor | None, held: Held | None) -> list[Tensor]:
    """The gradients of the other tensors: one run of the program with dual gates, and autograd."""
    opened, gates = at.reading.opened, at.found.gates
    if not tensors:
        return []
    assert opened is not None and gates is not None
    arguments: list[Tensor] = []

    def gated(a: Tensor, bend: float | Tensor | Bend = 0.0) -> Tensor:
        k = len(arguments)
        arguments.append(a.flatten(1).expand(len(gates[k]), -1))
        if isinstance(bend, Bend) and bend.smooth:
            return value_of(a, bend)
        if isinstance(bend, Bend):
            return bend.push(gates[k], arguments[k]).reshape(len(gates[k]), *a.shape[1:-1])
        gate = gates[k].reshape(len(gates[k]), *a.shape[1:])
        return (bend + (1 - bend) * gate) * a

    with torch.enable_grad():
        made, inputs, live = at.aliases(tensors)
        y = (at.found.y if held is None else held.y).clone()
        along = None if held is None or not bool(held.along.any()) else held.along
        if along is not None:
            y.requires_grad_()
        inputs[at.variable] = y.view(len(y), *at.box.shape)
        out = opened.run(inputs, gated, live).expand(len(y))
        heads, weights = [out], [torch.zeros_like(out) if to_value is None else to_value.double()]
        if held is not None:
            heads, weights = [*heads, *arguments], [*weights, *(-force for force in held.forces)]
            if along is not None:
                (slope,) = derived([out], [y], [torch.ones_like(out)])
                heads, weights = [*heads, slope], [*weights, -along]
        return [
            gradient.to(tensor) for gradient, tensor in zip(derived(heads, made, weights, False), tensors, strict=True)
        ]


# --- again -----------------------------------------------------------------------------------------------------------


def again(
    at: Minimum,
    x: Tensor,
    lo: Tensor,
    hi: Tensor,
    tensors: list[Tensor],
    to_x: Tensor | None,
    to_value: Tensor | None,
) -> Gradients:
    """The gradients of `pulled_back`, which can be differentiated in their turn where no kink holds the minimiser."""
    flat = torch.zeros_like(at.lo) if to_x is None else to_x.detach().reshape(at.lo.shape).double()
    at.form()
    with torch.no_grad():
        held = holding(at, flat)
    opened = at.reading.opened
    assert opened is not None
    kinks = [k for k, samples in held.kinks.items() if bool(samples.any())]
    if kinks:
        sample = int(held.kinks[kinks[0]].nonzero()[0])
        plain = pulled_back(at, tensors, *(None if t is None else t.detach() for t in (to_x, to_value)))
        results = [*plain[0], *plain[1]]
        arrived = [t for t in (to_x, to_value, x, lo, hi, *tensors) if t is not None]
        lower, upper, *rest = once(lambda: unsmooth(at, kinks[0], sample), results, arrived)
        return (lower, upper), rest
    made, inputs, live = at.aliases(tensors)

    def f(y: Tensor) -> Tensor:
        inputs[at.variable] = y.view(len(y), *at.box.shape)
        return opened.run(inputs, value_of, live).expand(len(y))

    y = standing(x.reshape(at.lo.shape).double(), held.y)
    arriving = (
        None if to_x is None else to_x.reshape(at.lo.shape).double(),
        None if to_value is None else to_value.double(),
    )
    to_lo, to_hi, others = moved(f, y, made, held.low, held.high, *arriving)
    ends = shaped(to_lo, at.box.lo, at.box.shape), shaped(to_hi, at.box.hi, at.box.shape)
    return ends, [gradient.to(tensor) for gradient, tensor in zip(others, tensors, strict=True)]


def smoothly(
    at: Minimum,
    x: Tensor,
    lo: Tensor,
    hi: Tensor,
    tensors: list[Tensor],
    to_x: Tensor | None,
    to_value: Tensor | None,
) -> Gradients:
    """The gradients of x with the functions smoothed; those of the value are exact, and their derivatives smoothed."""
    opened, more = at.reading.opened, torch.is_grad_enabled()
    if opened is None:
        raise RuntimeError(missing(at.f, at.reading, at.name))
    with torch.enable_grad():
        made, inputs, live = at.aliases(tensors)
        run = softly(opened, units(at.f, at.lo, at.hi))

        def f(y: Tensor) -> Tensor:
            inputs[at.variable] = y.view(len(y), *at.box.shape)
            return run(inputs, live).expand(len(y))

        y = standing(x.reshape(at.lo.shape).double(), at.found.y)
        to_lo, to_hi = torch.zeros_like(at.lo), torch.zeros_like(at.lo)
        others = [torch.zeros_like(tensor) for tensor in made]
        if to_x is not None:
            below, above = (
                standing(over(end, at.box.shape, len(at.lo)), kept) for end, kept in ((lo, at.lo), (hi, at.hi))
            )
            size = (at.found.centre - at.found.value).clamp(min=1e-12)[:, None]
            fixed = at.lo == at.hi
            arriving = to_x.reshape(at.lo.shape).double()
            walls = barriers(y, below, above, size)
            to_lo, to_hi, others = moved(f, y, made, fixed, torch.zeros_like(fixed), arriving, None, walls)
        if to_value is not None:
            low, high = (y == at.lo).detach(), (y == at.hi).detach()
            soft = moved(f, y, made, low, high, None, to_value.double())
            ends, exact = pulled_back(at, tensors, None, to_value.detach())
            to_lo, to_hi = (end + (part - part.detach()) for end, part in ((to_lo, soft[0]), (to_hi, soft[1])))
            others = [
                own + part.to(own) + (curved - curved.detach())
                for own, part, curved in zip(others, exact, soft[2], strict=True)
            ]
        bounds = [shaped(end, bound, at.box.shape) for end, bound in ((to_lo, at.box.lo), (to_hi, at.box.hi))]
        if to_value is not None:
            bounds = [bound + end for bound, end in zip(bounds, ends, strict=True)]
        results = [*bounds, *(gradient.to(tensor) for gradient, tensor in zip(others, tensors, strict=True))]
    if not more:
        results = [gradient.detach() for gradient in results]
    return (results[0], results[1]), results[2:]


def over(bound: Tensor, shape: torch.Size, batch: int) -> Tensor:
    """A bound as one of all samples, (B, n)."""
    return bound.expand(batch, *shape).reshape(batch, -1)


# --- errors ----------------------------------------------------------------------------------------------------------


def unsmooth(at: Minimum, k: int, sample: int) -> str:
    """Why there is no second derivative: the bend k holds a sample."""
    opened = at.reading.opened
    assert opened is not None
    where = origin(opened, at.inputs, k)
    return (
        f"second derivatives of this minimum are not available: the minimiser of sample {sample} sits on a kink of "
        f"{described(where)}, where only first derivatives exist. Use a smooth activation (softplus) with a quadratic "
        'term, or derivative="smoothed"'
    )


def described(node: fx.Node | None) -> str:
    """An operator with its module and its line."""
    if node is None:
        return "its forward"
    path, line = module_path(node), source_line(node)
    place = ", ".join(part for part in (f"layer {path}" if path else "", line) if part)
    return f"{base_name(node.target)} ({place or 'no source line'})"


def origin(opened: Opened, inputs: Sequence[Tensor], k: int) -> fx.Node | None:
    """The operator that bend k of a program belongs to."""
    count = 0

    def counted(a: Tensor, bend: float | Tensor | Bend = 0.0) -> Tensor:
        nonlocal count
        count += 1
        return value_of(a, bend)

    env: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in opened.program.graph.nodes:
            if node.op != "output":
                env[node] = opened.computed(node, env, [t[:1] for t in inputs], counted, None)
                if count > k:
                    return node
    return None


def missing(f: Function, reading: Reading, name: str) -> str:
    """Why there are no derivatives at all."""
    if isinstance(f, Layers):
        why = f"it has {f.size} variables or maps that are too large for the matrices that derivatives need"
    elif reading.opened is None:
        why = "its forward reads the size of its batch"
    else:
        why = "it was minimised as a whole, without being opened at its bends"
    return (
        f"derivatives of this minimum of {reading.program.model} (solver {name!r}) are not available: {why}. "
        'Call minimise under torch.no_grad() if you need none, or use derivative="unrolled"'
    )

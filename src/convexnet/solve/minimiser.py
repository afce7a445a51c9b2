"""`Minimiser`: one network and one domain, minimised again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from convexnet.arrays import listed_inputs
from convexnet.curvature.arguments import unwrap
from convexnet.curvature.tracing.trace import TRACING
from convexnet.domains import Domain
from convexnet.solve.arguments import validate_arguments
from convexnet.solve.compiled import Readings
from convexnet.solve.minimise import minimise_arguments, outside_inference_mode, with_defaults
from convexnet.solve.single.quick import Quick, quick_for
from convexnet.solve.solution import Solution


class Minimiser:
    """`minimise` for many calls: the network is read once, and not looked at again.

    The network is as it was when the minimiser was built, until `refresh()`: what is trained, loaded or written into it
    in between has no effect, so that a control loop may run beside a learner. Gradients flow to `given`, the bounds and
    the parameters of f, for the values they had then.

    One sample after another, of a network of ReLUs or leaky ReLUs on a box, is minimised in numpy, in milliseconds, and
    from an earlier solution nearby in less: under `torch.no_grad()`, or where nothing requires a gradient. Such
    solutions are proved and judged as those of `minimise`.

    Args:
        f, domain, wrt: as for `minimise`.
        options: its other arguments, for every call.

    Raises:
        TypeError: an option that `minimise` does not have.

    Example:
        >>> import torch
        >>> import convexnet as cx
        >>> f = cx.nn.PICNN(3, 2, hidden=(8,), activation="relu")
        >>> solver = Minimiser(f, cx.Box(-1, 1, shape=2), tol=1e-5)
        >>> first = solver(torch.zeros(1, 3))
        >>> _ = torch.nn.init.zeros_(next(f.parameters()))
        >>> bool((solver(torch.zeros(1, 3), start=first).value - first.value).abs() < 1e-3)
        True
    """

    def __init__(self, f: nn.Module, domain: Domain, *, wrt: int = -1, **options: Any) -> None:
        self.f, self.domain, self.wrt = unwrap(f), domain, wrt
        self.options = with_defaults(options)
        self.refresh()

    def refresh(self) -> None:
        """Take the network as it is now.

        Example:
            >>> import torch
            >>> import convexnet as cx
            >>> f = torch.nn.Linear(1, 1, bias=False)
            >>> _ = torch.nn.init.ones_(f.weight)
            >>> solver = Minimiser(f, cx.Box(-1, 1, shape=1))
            >>> _ = torch.nn.init.constant_(f.weight, 2.0)
            >>> before = solver().value.item()
            >>> solver.refresh()
            >>> before, solver().value.item()
            (-1.0, -2.0)
        """
        self.readings = Readings([self.f, *(constraint.g for constraint in self.options["subject_to"])])
        self.quick: Quick | None = None
        self.tried = False

    @outside_inference_mode
    def __call__(
        self,
        given: Tensor | Sequence[Any] | Any = None,
        start: Solution | Tensor | Sequence[Any] | Any = None,
        domain: Domain | None = None,
        time_limit: float | None = None,
    ) -> Solution:
        """Return the minimum for a batch, as `minimise`.

        Args:
            given: the other inputs of f, B rows each.
            start: where to begin; from an earlier `Solution` for a `given` nearby, one linear system is most often
                enough (see `minimise`): the way to solve one problem after the other, as in a control loop.
            domain: another one of the same shape; None: that of the minimiser.
            time_limit: in seconds; None: that of the minimiser.
        """
        begin = self.options["start"] if start is None else start
        if self.quick is not None and domain is None and time_limit is None:
            found = self.quick(given, begin, self.again(given, begin))
            if found is not None:
                return found
        return self.in_batches(given, begin, domain, time_limit)

    def again(self, given: Any, start: Any) -> Callable[[], Solution]:
        """The same call for later, whatever is written into `given` or refreshed until then: for multipliers."""
        copies = tuple(item.clone() if isinstance(item, Tensor) else item for item in listed_inputs(given))
        readings = self.readings
        return lambda: self.in_batches(copies, start, None, None, readings)

    def in_batches(
        self,
        given: Any,
        start: Any,
        domain: Domain | None,
        time_limit: float | None,
        readings: Readings | None = None,
    ) -> Solution:
        """The same, by the solvers of batches; readings: of the network, where they are not those of now."""
        options = dict(self.options)
        del options["start"]
        if time_limit is not None:
            options["time_limit"] = time_limit
        where = self.domain if domain is None else domain
        if where.shape != self.domain.shape:
            own = tuple(self.domain.shape)
            raise ValueError(f"the domain has shape {tuple(where.shape)}, and that of the minimiser {own}")
        with TRACING:
            arguments = validate_arguments(self.f, where, tuple(listed_inputs(given)), start, self.wrt, **options)
        arguments = replace(arguments, readings=readings or self.readings)
        solution = minimise_arguments(arguments)
        if not self.tried and readings is None and domain is None and time_limit is None and arguments.batch == 1:
            self.tried, self.quick = True, quick_for(arguments)
        return solution

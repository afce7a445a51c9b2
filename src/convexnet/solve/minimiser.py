"""`Minimiser`: one network and one domain, minimised again and again."""

from __future__ import annotations

from collections.abc import Sequence
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
from convexnet.solve.solution import Solution


class Minimiser:
    """`minimise` for many calls: the network is read once, and not looked at again.

    The network is as it was when the minimiser was built, until `refresh()`: what is trained, loaded or written into it
    in between has no effect, so that a control loop may run beside a learner. Gradients flow to `given`, the bounds and
    the parameters of f, for the values they had then.

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
        >>> bool(solver(torch.zeros(1, 3), start=first).value == first.value)
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
        options = dict(self.options)
        own_start = options.pop("start")
        if time_limit is not None:
            options["time_limit"] = time_limit
        where = self.domain if domain is None else domain
        if where.shape != self.domain.shape:
            own = tuple(self.domain.shape)
            raise ValueError(f"the domain has shape {tuple(where.shape)}, and that of the minimiser {own}")
        begin = own_start if start is None else start
        with TRACING:
            arguments = validate_arguments(self.f, where, tuple(listed_inputs(given)), begin, self.wrt, **options)
        return minimise_arguments(replace(arguments, readings=self.readings))

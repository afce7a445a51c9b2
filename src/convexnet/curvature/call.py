"""One operator call, as a rule of the table sees it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convexnet.curvature.facts import Fact
from convexnet.curvature.fields import Shape

Result = Fact | tuple[Fact, ...]
Rule = Callable[["Call"], Result]


class Lost(Exception):
    """The expression is none that a kind of values covers."""


@dataclass
class Refusal(Exception):
    """Raised by a rule that can say nothing about a call; the walk turns it into an unknown fact and a finding.

    `result` is what is known all the same: no curvature, but bounds, and degrees that a later operator may use. It is
    that of the call `by`: where a rule asks another one, what that knows of its own part is not the whole's.
    """

    reason: str
    remedy: str = ""
    result: Fact | None = None
    by: Call | None = None

    def known_of(self, call: Call) -> Fact | None:
        """What is known of the result of this call."""
        return self.result if self.by is call else None


@dataclass(frozen=True)
class Call:
    """An operator with its arguments, tensors replaced by their facts.

    `operator` is the functional overload (relu for relu_), `shapes` the shapes of its results, `dtypes` their types
    (None for an integer outside tensors) and `floating` whether the first is real. Two arguments that are the same
    tensor are the same `Fact` object. A number that was read from a tensor is a Python number, or a fact of shape () if
    it is not known; `unread` says that such a fact stands where only a number says what the operator does. `shape_only`
    are the places of arguments of which it takes the shape or the type, and no element.
    """

    operator: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    floating: bool = True
    dtypes: tuple[torch.dtype | None, ...] = ()
    unread: bool = False
    shape_only: tuple[int, ...] = ()

    @property
    def shape(self) -> Shape:
        """The shape of the (first) result."""
        return self.shapes[0]

    @property
    def x(self) -> Fact:
        """The first argument."""
        first = self.args[0]
        assert isinstance(first, Fact)
        return first

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    def fact(self, index: int, name: str) -> Fact | None:
        """An optional tensor argument."""
        found = self.arg(index, name)
        assert found is None or isinstance(found, Fact)
        return found

    def facts(self) -> list[Fact]:
        """All tensor arguments, in order."""
        return list(facts_in((self.args, tuple(self.kwargs.values()))))

    def read(self) -> list[Fact]:
        """The tensor arguments whose elements the operator looks at: of others it takes the shape or the type."""
        if not self.shape_only:
            return self.facts()
        read = [arg for i, arg in enumerate(self.args) if i not in self.shape_only]
        return list(facts_in((read, tuple(self.kwargs.values()))))

    def blank(self, fact: Fact) -> Tensor:
        """A tensor in place of one of which only the shape or the type is taken."""
        dtype = self.dtypes[0] if self.dtypes else None
        return torch.zeros((), dtype=dtype or torch.float64).expand(fact.shape)

    def run(self, exchange: Callable[[Fact], Tensor]) -> Any:
        """Execute the operator with every fact exchanged for a tensor, without recording it for autograd."""
        with torch.no_grad():
            return self.recorded(exchange)

    def recorded(self, exchange: Callable[[Fact], Tensor]) -> Any:
        """Execute the operator with every fact exchanged for a tensor."""
        return self.operator(
            *(_exchange(arg, exchange) for arg in self.args),
            **{key: _exchange(value, exchange) for key, value in self.kwargs.items()},
        )

    def name_of_settings(self) -> Hashable:
        """A name for the function of the first argument that the call computes; None if its settings are not plain."""
        settings = (self.name, *self.args[1:], *sorted(self.kwargs.items()))
        try:
            hash(settings)
        except TypeError:
            return None
        return None if any(isinstance(item, Fact) for item in settings) else settings

    def on(self, x: Tensor) -> Any:
        """Execute the operator on another first argument, with the same settings."""
        with torch.no_grad():
            return self.operator(x, *self.args[1:], **self.kwargs)


def facts_in(value: Any) -> Iterator[Fact]:
    """The facts among arguments, in lists too."""
    if isinstance(value, Fact):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from facts_in(item)


def _exchange(value: Any, exchange: Callable[[Fact], Tensor]) -> Any:
    if isinstance(value, Fact):
        return exchange(value)
    if isinstance(value, (list, tuple)):
        return [_exchange(item, exchange) for item in value]
    return value

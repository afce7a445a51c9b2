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


@dataclass
class Refusal(Exception):
    """Raised by a rule that can say nothing about a call; the walk turns it into an unknown fact and a finding."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Call:
    """An operator with its arguments, tensors replaced by their facts.

    `operator` is the functional overload (relu for relu_), `shapes` the shapes of its results and `floating` whether
    those are real numbers. Two arguments that are the same tensor are the same `Fact` object.
    """

    operator: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    floating: bool = True

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
        return list(_facts((self.args, tuple(self.kwargs.values()))))

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


def _facts(value: Any) -> Iterator[Fact]:
    if isinstance(value, Fact):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _facts(item)


def _exchange(value: Any, exchange: Callable[[Fact], Tensor]) -> Any:
    if isinstance(value, Fact):
        return exchange(value)
    if isinstance(value, (list, tuple)):
        return [_exchange(item, exchange) for item in value]
    return value

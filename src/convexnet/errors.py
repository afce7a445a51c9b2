"""The errors convexnet raises; the type of an error says what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConvexNetError(Exception):
    """The base class of every error that only convexnet raises.

    Wrong arguments raise the built-in `ValueError` and `TypeError`, as elsewhere in Python.

    Example:
        >>> issubclass(NotCertified, ConvexNetError)
        True
    """


class NotTraceable(ConvexNetError):
    """The error for a model that `torch.export` cannot turn into one program: change the `forward` it names.

    Example:
        >>> raise NotTraceable("the forward branches on data")
        Traceback (most recent call last):
        ...
        convexnet.errors.NotTraceable: the forward branches on data
    """


class NotCertified(ConvexNetError):
    """The error for a model that was read in full and is not proved convex; it lists every finding and its remedy.

    Attributes:
        findings: the findings themselves, where there are any.

    Example:
        >>> raise NotCertified("act: silu is neither convex nor concave")
        Traceback (most recent call last):
        ...
        convexnet.errors.NotCertified: act: silu is neither convex nor concave
    """

    def __init__(self, message: str, findings: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


def meant(name: object, known: Iterable[str]) -> str:
    """Return a question that names the known word nearest to a mistyped one, for an error; empty if none is near.

    Example:
        >>> meant("rleu", ["relu", "softplus"]), meant("tanh", ["relu", "softplus"])
        (" (did you mean 'relu'?)", '')
    """
    words = {word.lower(): word for word in known}
    found = get_close_matches(name.lower(), words, n=1) if isinstance(name, str) else []
    return f" (did you mean {words[found[0]]!r}?)" if found else ""

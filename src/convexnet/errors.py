"""The errors convexnet raises; the type of an error says what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConvexNetError(Exception):
    """Base class of every error that is particular to convexnet.

    Wrong arguments raise the built-in `ValueError` and `TypeError`, as elsewhere in Python.

    Example:
        >>> issubclass(NotCertified, ConvexNetError)
        True
    """


class NotTraceable(ConvexNetError):
    """`torch.export` could not turn the model into one program: change the `forward` the message names.

    Example:
        >>> raise NotTraceable("the forward branches on data")
        Traceback (most recent call last):
        ...
        convexnet.errors.NotTraceable: the forward branches on data
    """


class NotCertified(ConvexNetError):
    """The model was read in full, but it is not proved convex: the message lists every finding and its remedy.

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

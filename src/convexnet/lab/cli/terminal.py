"""What all subcommands use on a terminal: certificates in colour, clean stops, errors in a line, completed options."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from convexnet.errors import NotCertified, NotTraceable, meant
from convexnet.lab.errors import UsageError
from convexnet.lab.training.signals import Stopped, Terminated, terminating

Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PACKAGE",
        help="A package whose classes the file may use besides torch's and convexnet's. May be repeated.",
        show_default=False,
    ),
]

Tol = Annotated[float, typer.Option(help="Relative gap to prove.")]
TimeLimit = Annotated[float | None, typer.Option(help="In seconds.", show_default=False)]


def print_certificate(text: str, convex: bool, console: Console) -> None:
    """Print a certificate's text, its first line in colour."""
    first, _, rest = text.partition("\n")
    console.print(Text(first, style="bold green" if convex else "bold red"), soft_wrap=True)
    if rest:
        console.print(Text(rest), soft_wrap=True)


@contextlib.contextmanager
def stops_cleanly(what_remains: str) -> Generator[None, None, None]:
    """Turn Ctrl-C and SIGTERM into one line and the exit status that shells expect."""
    try:
        with terminating():
            yield
    except Stopped as stop:
        print(f"\nStopped after a checkpoint, {stop.checkpoint}; {what_remains}", file=sys.stderr)
        raise typer.Exit(128 + stop.signal) from None
    except Terminated as stop:
        print(f"\nStopped; {what_remains}", file=sys.stderr)
        raise typer.Exit(128 + stop.signal) from None
    except KeyboardInterrupt:
        print(f"\nStopped; {what_remains}", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def refuses_in_words() -> Generator[None, None, None]:
    """Turn what is wrong with a network and numbers for it into a sentence: exit status 1 where it is not certified
    convex, and 2 where the usage is wrong."""
    try:
        yield
    except NotCertified as error:
        print(f"convexnet: {error}")
        raise typer.Exit(1) from None
    except (UsageError, NotTraceable, ValueError, TypeError, ImportError) as error:
        raise refuse(str(error)) from None


def refuse(message: str) -> typer.Exit:
    """Print an error without a traceback and return the exit for wrong usage, status 2."""
    print(f"convexnet: {message}", file=sys.stderr)
    return typer.Exit(2)


def refuse_unwritten(path: object, error: OSError) -> typer.Exit:
    """Print that a file could not be written, and return the exit."""
    return refuse(f"{path} could not be written ({error.strerror or error}): choose another place, or free some space")


def one_of(allowed: Iterable[str]) -> Callable[[str | None], str | None]:
    """A check of an option that has one of a few values."""
    names = tuple(allowed)

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}{meant(value, names)}.")
        return value

    return check


def completing(allowed: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what a shell offers for an option that has one of a few values.

    Example:
        >>> completing(("clip", "shift"))("c")
        ['clip']
    """
    names = tuple(allowed)
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def choice(words: Sequence[str], **others: Any) -> Any:
    """Return an option that has one of a few values: shown by `--help`, checked, and offered by the shell.

    Args:
        words: the values.
        others: of `typer.Option`, as its help.
    """
    return typer.Option(metavar="|".join(words), callback=one_of(words), autocompletion=completing(words), **others)

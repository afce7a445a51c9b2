"""Certificates in colour, where there is a terminal to show it."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def print_certificate(text: str, convex: bool, console: Console) -> None:
    """Print a certificate's text, its first line in colour."""
    first, _, rest = text.partition("\n")
    console.print(Text(first, style="bold green" if convex else "bold red"), soft_wrap=True)
    if rest:
        console.print(Text(rest), soft_wrap=True)

"""Docstrings as this project writes them, brought into the form that the site's reader of Google style knows.

It knows "Examples:", not "Example:"; it takes a "Source:" for running text; and it expects an entry for each argument,
where ours may say one thing of several ("x, y: tuples of the chosen inputs"). Markdown would take the asterisks of
"(B, *shape) or (*shape)" for emphasis.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

SEVERAL = re.compile(r"^( {4})([A-Za-z_]\w*(?:, [A-Za-z_]\w*)+): ")
SECTION = re.compile(r"^(Args|Attributes):$")
NOTE = re.compile(r"^(Source|Shape): ")
UNPACKED = re.compile(r"(?<![\w*`\\])\*(?=[A-Za-z_]\w*[,)])")
CODE = re.compile(r"(`[^`]*`)")


class Docstrings(Extension):
    """Rewrites every docstring when its object has been read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """A docstring with plural examples, sources in bold, and an entry for every argument.

    Example:
        >>> print(rewritten("Add.\\n\\nArgs:\\n    x, y: numbers.\\n\\nSource: Peano."))
        Add.
        <BLANKLINE>
        Args:
            x: numbers.
            y: numbers.
        <BLANKLINE>
        **Source:** Peano.
        >>> print(rewritten("Points (B, *shape) or (*shape), not `f(*x)`."))
        Points (B, \\*shape) or (\\*shape), not `f(*x)`.
    """
    lines: list[str] = []
    entries: list[list[str]] = []  # the entries that the present lines belong to
    listed = False
    for line in [*text.splitlines(), ""]:
        if not line.startswith(" " * 5):
            lines += [each for entry in entries for each in entry]
            entries = []
        if line and not line.startswith(" "):
            listed = bool(SECTION.match(line))
        several = SEVERAL.match(line) if listed else None
        if several:
            entries = [[f"    {name}: {line[several.end() :]}"] for name in several[2].split(", ")]
        elif entries:
            for entry in entries:
                entry.append(line)
        else:
            lines.append(NOTE.sub(r"**\1:** ", "Examples:" if line == "Example:" else line))
    return "\n".join(literal(line) for line in lines).rstrip()


def literal(line: str) -> str:
    """Escape the asterisks of unpacked names, except in code."""
    if line.lstrip().startswith((">>>", "...")):
        return line
    return "".join(part if part[:1] == "`" else UNPACKED.sub(r"\\*", part) for part in CODE.split(line))

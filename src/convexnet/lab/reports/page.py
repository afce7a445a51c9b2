"""The classes `Panel`, `Table` and `Section`: what pages are made of, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convexnet.lab.reports.pictures import Picture


@dataclass(frozen=True)
class Panel:
    """A picture, the caption under it, and what its own colours mean: pairs of a theme's colour and a text."""

    picture: Picture
    caption: str
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; `text` is how many of the first columns hold words and not numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1

    def markdown(self) -> str:
        """As a Markdown table with its caption above.

        Example:
            >>> print(Table("Sizes", ["set", "images"], [["a | b", "3"]]).markdown())
            Sizes
            <BLANKLINE>
            | set | images |
            |:---|---:|
            | a \\| b | 3 |
        """

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|" + "|".join(":---" if index < self.text else "---:" for index in range(len(self.columns))) + "|"
        above = [self.caption, ""] if self.caption else []
        return "\n".join([*above, line(self.columns), rule, *(line(row) for row in self.rows)])


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, tables, and panels side by side; `legend` names what lines and colours mean."""

    title: str
    text: str
    panels: Sequence[Panel] = ()
    legend: str = ""
    tables: Sequence[Table] = field(default_factory=tuple[Table, ...])

"""The colours of pages and pictures, light and dark, by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours of one ground. Orange and blue, teal and magenta stay apart for colour-blind readers in both."""

    ink: str
    muted: str
    line: str
    nn: str
    ioc: str
    first: str
    second: str


LIGHT = Theme(
    ink="#1d232b",
    muted="#5b6470",
    line="#d5dae1",
    nn="#bf4a00",
    ioc="#0067b0",
    first="#00796b",
    second="#a83279",
)
DARK = Theme(
    ink="#e8ebf0",
    muted="#a3adba",
    line="#39424e",
    nn="#ff9550",
    ioc="#62b5f6",
    first="#3fc9b0",
    second="#f08cc6",
)

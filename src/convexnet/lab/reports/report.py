"""Write the report of studies: one self-contained HTML page, and the same as Markdown with its pictures beside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from convexnet.lab.atomic import write_whole
from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports import own_runs
from convexnet.lab.reports.page import Panel, Section
from convexnet.lab.reports.templates_read import template
from convexnet.lab.reports.theme import DARK, LIGHT
from convexnet.lab.runs.records import RecordError, Row, read_records

LINES = (("train", "train"), ("test", "test"))


def coloured(*names: str) -> list[tuple[str, str]]:
    """The colours and titles of networks."""
    return [(MODELS[name].colour, MODELS[name].title) for name in names]


LEGENDS: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType(
    {
        "classes": (("first", "class A"), ("second", "class B")),
        "curves": (*coloured("mlp", "ioc-mlp"), *LINES),
        "networks": (*coloured("mlp", "relu-mlp", "ficnn", "ioc-mlp"), *LINES),
        "mixers": (*coloured("mixer", "ioc-mixer", "mixer-report"), *LINES),
        "cyclemlps": (*coloured("cyclemlp-b1", "ioc-cyclemlp-b1", "cyclemlp-b1-report"), *LINES),
        "heads": (*coloured("cnn", "ioc-cnn", "cnn-head"), *LINES),
        "lines": LINES,
    }
)
"""What the lines and colours of a section mean."""

SAID = MappingProxyType(
    {
        "nn": "orange",
        "ioc": "blue",
        "first": "green",
        "second": "purple",
        "muted": "grey",
        "train": "solid line",
        "test": "dashed line",
    }
)
"""How a colour or line of the light theme is called, where there is nothing to show it with."""


class Study(Protocol):
    """What a report asks of a study (`convexnet.lab.studies.study.Study`)."""

    @property
    def name(self) -> str:
        """On the command line."""
        ...

    def rows(self, found: Sequence[Row], /) -> list[Row]:
        """Those records that belong to it."""
        ...

    @property
    def sections(self) -> Callable[[Sequence[Row]], list[Section]]:
        """What is shown of its records."""
        ...


Chapter = tuple[str, list[Section]]
"""The name of a study, or of what belongs to none, and what is shown of it."""


def write_report(sources: Iterable[Path], out: Path, studies: Sequence[Study]) -> list[Path]:
    """Make the page `out` and its Markdown twin from records; returns what was written.

    Args:
        sources: files of records, or folders that hold some (`*.jsonl`, at any depth).
        studies: that there are.
        out: the HTML file; the Markdown is beside it with the ending .md, its pictures in a folder named after it.

    Raises:
        RecordError: a source is not there, holds no record, or one that cannot be read.
    """
    rows = collected(sources)
    known = [study for study in studies if study.rows(rows)]
    chapters: list[Chapter] = [(study.name, study.sections(study.rows(rows))) for study in known]
    recorded = {row["key"] for study in known for row in study.rows(rows)}
    if single := [row for row in rows if row["key"] not in recorded]:
        chapters.append(("runs", own_runs.sections(single)))
    measured = provenance(rows, known, studies)
    write_whole(out, page(chapters, rows, measured, own=not known))
    pictures = out.with_name(f"{out.stem}-pictures")
    text = markdown(chapters, measured, pictures, own=not known)
    write_whole(out.with_suffix(".md"), text)
    return [out, out.with_suffix(".md")]


def collected(sources: Iterable[Path]) -> list[Row]:
    """All records, of one key the last."""
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            files += sorted(source.rglob("*.jsonl"))
        elif source.is_file():
            files.append(source)
        else:
            raise RecordError(f"{source} is not there; give files of records, such as results/table1.jsonl, or folders")
    rows = {row["key"]: row for file in files for row in read_records(file)}
    if not rows:
        raise RecordError(f"no records in {', '.join(map(str, sources))}; make some with `convexnet study run`")
    return list(rows.values())


def page(chapters: Sequence[Chapter], rows: Sequence[Row], measured: Mapping[str, str], *, own: bool) -> str:
    """The HTML page; `own`: of runs that belong to no study."""
    text = template("study.html.j2").render(
        light=LIGHT,
        dark=DARK,
        chapters=chapters,
        legends=LEGENDS,
        own=own,
        measured=measured,
        short=sum(not row["full"] for row in rows),
        total=len(rows),
    )
    return text.replace(" %", "\u00a0%")


def markdown(chapters: Sequence[Chapter], measured: Mapping[str, str], pictures: Path, *, own: bool) -> str:
    """The page as Markdown; writes its pictures into a folder beside it."""
    parts = ["# Results beside the papers'", "What was not run says so, and a shortened run says so in its line."]
    if own:
        parts = ["# Runs"]
    for chapter, sections in chapters:
        for number, section in enumerate(sections, 1):
            parts += [f"## {section.title}", section.text, *(table.markdown() for table in section.tables)]
            if section.legend and section.panels:
                said = ", ".join(f"{text} {SAID[kind]}" for kind, text in LEGENDS[section.legend])
                parts.append(f"In the pictures: {said}.")
            for panel in section.panels:
                name = re.sub(r"[^a-z0-9]+", "-", f"{chapter}-{number}-{panel.picture.title}".lower()).strip("-")
                drawn = base64.b64decode(panel.picture.light.partition(",")[2]).decode()
                write_whole(pictures / f"{name}.svg", drawn)
                parts += [
                    f"![{panel.picture.title}]({pictures.name}/{name}.svg)",
                    f"*{panel.picture.title}.* {colours_of(panel)}{panel.caption}",
                ]
    parts += ["## How it was measured", "\n".join(f"- **{name}**: {text}" for name, text in measured.items())]
    return "\n\n".join(parts) + "\n"


def colours_of(panel: Panel) -> str:
    """Say in words which colour of a picture is what, where there is nothing to show it with."""
    named = "; ".join(f"{SAID[kind]}: {text}" for kind, text in panel.legend)
    return f"{named[0].upper()}{named[1:]}. " if named else ""


def provenance(rows: Sequence[Row], known: Sequence[Study], studies: Sequence[Study]) -> dict[str, str]:
    """What a reader needs to judge the numbers or to measure them again."""

    def several(values: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value))

    shortened = sum(not row["full"] for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    took = f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.0f} seconds"
    commits = [str(row["commit"] or "not known") for row in rows]
    left = [study.name for study in studies if study not in known]
    intervals = (
        "95 %, Student's t, over seeds; a seed decides the start, the validation part, the images that are trained on "
        "where they are a part of all, and the order of the data"
    )
    found = {
        "Records": f"{len(rows)} run{'' if len(rows) == 1 else 's'}, {shortened} of them shortened"
        f"; {took} of training and measuring together",
        "Repeat": several(f"convexnet study run {study.name}" for study in known),
        "Not run": f"no record of {', '.join(left)}" if known and left else "",
        "Intervals": intervals if known else "",
        "Selection": "none on the test set; “at peak” is the epoch with the best validation accuracy",
        "Data": several(f"{row['dataset']}: {row['note']}" for row in rows if row.get("note")) or "as published",
        "Hardware": several(machine(row["hardware"]) for row in rows),
        "Versions": several(", ".join(f"{name} {number}" for name, number in row["versions"].items()) for row in rows),
        "Commits": several(commits),
        "Dates": several(str(row.get("date", "")) for row in rows),
    }
    return {name: text for name, text in found.items() if text}


def machine(hardware: Mapping[str, object]) -> str:
    """The machine of a record in words.

    Example:
        >>> machine({"processor": "P", "cores": 2, "threads": 1, "system": "Linux"})
        'P, 2 cores, threads used: 1, Linux'
    """
    device = f"{hardware['accelerator']}, " if "accelerator" in hardware else ""
    return (
        f"{device}{hardware['processor']}, {hardware['cores']} cores, threads used: {hardware['threads']}, "
        f"{hardware['system']}"
    )

"""The subcommand `report`; `register` also adds `train` and the groups `study` and `rl` to the application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convexnet.lab.cli.rl import rl_app
from convexnet.lab.cli.study import study_app
from convexnet.lab.cli.terminal import refuse, refuse_unwritten, stops_cleanly
from convexnet.lab.cli.train import train


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(train)
    app.add_typer(study_app, name="study")
    app.add_typer(rl_app, name="rl")
    app.command()(report)


def report(
    records: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Files of records, or folders of them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.", dir_okay=False)] = Path("report.html"),
) -> None:
    """Make a page of tables and figures from records: our numbers next to the paper's.

    Writes one self-contained HTML file and, next to it, the same as Markdown with its pictures in a folder.
    """
    with stops_cleanly("no report was written."):
        from convexnet.lab.reports.report import write_report
        from convexnet.lab.runs.records import RecordError
        from convexnet.lab.studies import STUDIES

        try:
            written = write_report(records, out, STUDIES)
        except RecordError as error:
            raise refuse(str(error)) from None
        except OSError as error:
            raise refuse_unwritten(out, error) from None
        for path in written:
            print(path)

"""Progress bars on a terminal: one for all jobs of a sweep, and one for each that is run now."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.sweep import Outcome
from convexnet.learner import Point, moment_of


class Bars:
    """Bars of jobs; they are shown inside a `with`, and what is printed to `progress.console` stands above them.

    A learner is as far as its points count; the bar of one whose recipe does not say how far it goes has no end.
    """

    def __init__(self, console: Console) -> None:
        self.progress = progress_on(console)
        self.of_jobs: dict[str, TaskID] = {}
        self.whole: TaskID | None = None

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *of_an_error: object) -> None:
        self.progress.stop()

    def begin(self, job: Job) -> None:
        """Add the bar of a job, if it has none."""
        if job.key not in self.of_jobs:
            self.of_jobs[job.key] = self.progress.add_task(job.name, total=length_of(job), state="")

    def begin_all(self, name: str, jobs: int) -> None:
        """Add the bar of all jobs."""
        self.whole = self.progress.add_task(name, total=jobs, state="")

    def tick(self, job: Job, point: Point) -> None:
        """Show a point."""
        self.begin(job)
        bar, moment = self.of_jobs[job.key], moment_of(point)
        if moment is None:
            self.progress.update(bar, advance=1, state=readings(point))
        else:
            self.progress.update(bar, completed=moment[1], state=readings(point))

    def done(self, job: Job, outcome: Outcome) -> None:
        """Take away the bar of a job that is done, and move that of all."""
        if job.key in self.of_jobs:
            self.progress.refresh()  # so that where it got to is seen, however short it was
            self.progress.remove_task(self.of_jobs.pop(job.key))
        if self.whole is not None:
            finished = len({row["key"] for row in outcome.rows}) + len(outcome.failed)
            self.progress.update(self.whole, completed=finished)

    def finish(self) -> None:
        """Fill the bar of all jobs: what had its record before is not run."""
        if self.whole is not None:
            self.progress.update(self.whole, completed=self.progress.tasks[self.whole].total)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.progress.console.print(Text(text), soft_wrap=True)


def progress_on(console: Console) -> Progress:
    """Bars with a name, what was measured last, and the time that is left."""
    return Progress(
        TextColumn("{task.description}", table_column=Column(overflow="fold")),  # it gives way first
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=console,
    )


def length_of(job: Job) -> int | None:
    """The epochs of a job, where its recipe says them: a recipe of a learner that is no network may not."""
    return getattr(job.recipe, "epochs", None)


def readings(point: Point) -> str:
    """The last measurements in a few words: of a classifier its accuracies, of another learner what it measured first.

    Example:
        >>> readings({"epoch": 1, "running_loss": 0.5, "running_accuracy": 0.8, "validation_accuracy": 0.75})
        'train 0.800  validation 0.750'
        >>> readings({"iteration": 1, "log_likelihood": -0.5})
        'log likelihood -0.5'
    """
    parts = (("train", "running_accuracy"), ("validation", "validation_accuracy"))
    if any(key in point for _, key in parts):
        return "  ".join(f"{name} {point[key]:.3f}" for name, key in parts if key in point)
    counter, _ = moment_of(point) or ("", 0.0)
    others = [(name, value) for name, value in point.items() if name != counter]
    return "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in others[:2])

"""The class `Study`, and how a recipe is shortened where a study is run at less than its full size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from convexnet.lab.reports.page import Section
from convexnet.lab.runs import run as runs
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.place import Place, Tick
from convexnet.lab.runs.records import Row
from convexnet.lab.training.recipes import Recipe

SIZES = ("smoke", "two-core", "full")
"""Seconds, to see that everything runs; minutes on two processor cores, shortened and marked; as the source has it."""


@dataclass(frozen=True)
class Study:
    """One table or figure of a document.

    Attributes:
        name: on the command line.
        title: of its section in a report.
        source: document and place.
        systems: the rows of docs/systems.md it belongs to.
        seeds: how many, by size.
        plan: the jobs of a size and of some seeds.
        sections: what a report shows of the records that belong to the study.
        run: how a job becomes a record.
        longer: jobs for some seeds that are not shortened as much as on two cores and not as long as the source has
            them either; `convexnet study queue` runs them.
    """

    name: str
    title: str
    source: str
    systems: tuple[str, ...]
    seeds: Mapping[str, int]
    plan: Callable[[str, Sequence[int]], list[Job]]
    sections: Callable[[Sequence[Row]], list[Section]]
    run: Callable[[Job, Place, Tick], Row] = runs.run
    longer: Callable[[Sequence[int]], list[Job]] = lambda seeds: []

    def jobs(self, size: str, seeds: int | None = None) -> list[Job]:
        """The jobs of a size, for the first `seeds` seeds; None: as many as the study has for it.

        Raises:
            ValueError: an unknown size, or fewer than one seed.
        """
        if size not in SIZES:
            raise ValueError(f"a study is run in one of the sizes {', '.join(SIZES)}, not {size!r}")
        count = self.seeds[size] if seeds is None else seeds
        if count < 1:
            raise ValueError(f"a study needs at least one seed, not {count}")
        return self.plan(size, range(count))

    def rows(self, found: Sequence[Row]) -> list[Row]:
        """Those records that belong to the study, whichever study they were made for; of one key the last."""
        seeds = 1 + max((row["seed"] for row in found), default=0)
        wanted = {job.key for size in SIZES for job in self.jobs(size, seeds)}
        wanted |= {job.key for job in self.longer(range(seeds))}
        return list({row["key"]: row for row in found if row["key"] in wanted}.values())


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The same recipe for fewer epochs; where its rate falls, it falls as far."""
    return replace(recipe, epochs=min(epochs, recipe.epochs))

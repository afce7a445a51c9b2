"""The claims of the paper on two pages: made from the records, and nothing that was not run looks otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convexnet.lab.reports.claims import BEGIN, CLAIMS, END, Which, claims, filled
from convexnet.lab.reports.noise_tables import at, matched
from convexnet.lab.reports.report import collected
from convexnet.lab.studies import STUDIES
from convexnet.lab.studies.queue import QUEUE

ROOT = Path(__file__).resolve().parents[3]
PAGES = ("docs/what-holds-of-the-claims.md", "results/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_are_made_of_the_records(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    wanted = filled(text, claims(collected([ROOT / "results"])))
    assert text == wanted, "run `python docs/tools/claims.py`"


def made_up(which: Which, seed: int, test: float, **changes: Any) -> dict[str, Any]:
    return {
        "study": which.study,
        "dataset": which.dataset,
        "variant": which.variant,
        "model": which.model,
        "noise": f"{which.kind or 'symmetric-including'} {which.level:g} %" if which.level else which.kind,
        "recipe": {"epochs": which.epochs},
        "epochs": which.epochs or 60,
        "seed": seed,
        "full": True,
        "train_samples": 54_000,
        "certified": False,
        "train_accuracy": 0.9,
        "test_accuracy": test,
        "test_accuracy_at_peak": test,
        "gap": 0.9 - test,
        "ece": 0.05,
        **changes,
    }


def test_every_line_can_be_filled() -> None:
    assert claims([]).count("not run") == sum(len(lines) for _, lines in CLAIMS)
    rows = [made_up(which, seed, 0.5 + 0.1 * seed) for _, lines in CLAIMS for which in lines for seed in range(3)]
    text = claims(list({repr({**row, "test_accuracy": 0}): row for row in rows}.values()))
    assert "not run" not in text
    assert text.count("60.00 ± 24.84") == 2 * sum(len(lines) for _, lines in CLAIMS), "Student's t of three seeds"


def test_every_line_is_of_a_run_that_the_laboratory_knows() -> None:
    """A variant that is renamed in its study would stay "not run" for ever."""
    jobs = [
        job
        for study in STUDIES
        if study.name in {w.study for _, lines in CLAIMS for w in lines}
        for job in study.jobs("full", 1)
    ]
    jobs += [job for entry in QUEUE for job in entry.jobs()]
    for title, lines in CLAIMS:
        for which in lines:
            assert [
                job
                for job in jobs
                if (job.study, job.dataset) == (which.study, which.dataset)
                and which.variant in ("", job.variant)
                and which.model in ("", job.model)
                and which.level in (None, job.noise)
                and (not which.kind or job.noise_kind == which.kind)
                and which.epochs in (None, job.recipe.epochs)
            ], f"{title}: {which.words}"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the claims"):
        filled(f"{END}\n{BEGIN}", "text")


def test_nothing_is_extrapolated() -> None:
    base = [(0.5, 0.8), (0.7, 0.9), (0.95, 0.6)]
    assert at(0.49, base) is None
    assert at(0.951, base) is None
    assert at(0.5, base) == 0.8
    assert at(0.825, base) == pytest.approx(0.75)


def test_matched_accuracies() -> None:
    which = Which("x", "noise", "fashion-mnist", level=40.0, epochs=20)
    ordinary = {3: [made_up(which, 0, 0.8, train_accuracy=0.6)], 20: [made_up(which, 0, 0.6, train_accuracy=1.0)]}
    convex = {3: [made_up(which, 0, 0.75, train_accuracy=0.8)], 20: [made_up(which, 0, 0.9, train_accuracy=0.5)]}
    table, panels = matched("c", {"ordinary": ordinary, "convex": convex, "none": {3: []}}, "ordinary")
    cells = {(line[0], line[1]): dict(zip(table.columns, line, strict=True)) for line in table.rows}
    assert (cells["convex", "3"]["ordinary there"], cells["convex", "3"]["difference"]) == ("70.00", "+5.00")
    assert cells["convex", "20"]["difference"] == "–", "the ordinary network reaches no such training accuracy"
    assert cells["none", "3"]["run"] == "not run"
    assert len(panels) == 1

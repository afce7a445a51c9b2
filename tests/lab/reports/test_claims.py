"""The claims of the paper on two pages: made from the records, and nothing that was not run looks otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convexnet.lab.reports.claims import BEGIN, END, claims, filled, found, paired
from convexnet.lab.reports.claims_list import CLAIMS, CONTESTS, LENGTHS, MATCHED, Claim, Contest, Which
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
    seen = {"accuracy": test, "unique_accuracy": test, "duplicate_accuracy": test, "duplicates": 7}
    return {
        "study": which.studies[0],
        "dataset": which.dataset,
        "variant": which.variant,
        "model": which.model,
        "noise": f"{which.kind or 'symmetric-including'} {which.level:g} %" if which.level else which.kind,
        "recipe": {"epochs": which.epochs, "name": which.recipe},
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
        "duplicates": {"test": seen, "official-1017, listed": seen},
        "expert_accuracy": [test, test],
        **changes,
    }


LINES = [which for claim in CLAIMS for which in claim.lines]
WHOLE = [*LINES, *(which for contest in CONTESTS for which in (contest.convex, contest.other))]


def test_every_line_can_be_filled() -> None:
    missing = len(LINES) + len(CONTESTS) + len(LENGTHS) * (2 + 2 * (len(MATCHED) - 2))
    assert claims([]).count("| not run |") == missing
    rows = [made_up(which, seed, 0.5 + 0.1 * seed) for which in WHOLE for seed in range(3)]
    text = claims(list({repr({**row, "test_accuracy": 0}): row for row in rows}.values()))
    tables = text[text.index(f"### {CLAIMS[0].title}") :]
    assert "not run" not in tables
    least = sum("test_accuracy" in (column.key for column in claim.columns) for claim in CLAIMS for _ in claim.lines)
    assert tables.count("60.00 ± 24.84") > least, "Student's t of three seeds"
    assert "lines are recorded" not in tables


def test_every_line_is_of_a_run_that_the_laboratory_knows() -> None:
    """A variant that is renamed in its study would stay "not run" for ever."""
    jobs = [job for study in STUDIES for job in study.jobs("full", 1)]
    jobs += [job for entry in QUEUE for job in entry.jobs()]
    for which in WHOLE:
        assert [
            job
            for job in jobs
            if job.study in which.studies
            and job.dataset == which.dataset
            and which.variant in ("", job.variant)
            and which.model in ("", job.model)
            and which.level in (None, job.noise)
            and (not which.kind or job.noise_kind == which.kind)
            and which.epochs in (None, job.recipe.epochs)
            and which.recipe in ("", job.recipe.name)
        ], which
    lengths = {(job.variant, job.recipe.epochs) for job in jobs if (job.study, job.noise) == ("noise", 40.0)}
    assert {(variant, epochs) for variant, _ in MATCHED for epochs in LENGTHS} <= lengths


def test_a_line_of_the_queue_finds_the_study_that_runs_it() -> None:
    """Studies share runs, and the record names the one that the queue comes to first."""
    queued = [job for entry in QUEUE for job in entry.jobs() if not job.noise]
    first: dict[str, str] = {}
    for job in queued:
        first.setdefault(job.key, job.study)
    for which in WHOLE:
        for job in queued:
            named = which.variant in ("", job.variant) and which.model in ("", job.model)
            if named and job.study in which.studies and job.dataset == which.dataset:
                assert first[job.key] in which.studies, f"{which.words}: recorded as {first[job.key]}"


def test_what_is_missing_is_said() -> None:
    lines = (Which("a", "noise", "d", variant="a"), Which("b", "noise", "d", variant="b"))
    claim = Claim("title", lines)
    short = made_up(lines[0], 0, 0.5, full=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convexnet.lab.reports.claims.CLAIMS", (claim,))
        assert "None of these 2 lines are recorded: `convexnet study queue` has them, of `noise`." in claims([])
        text = claims([short])
        assert "All but 1 of these 2 lines are recorded" in text
        assert "What is shortened shows that it runs, and no more." in text
        assert "of these" not in claims([made_up(lines[0], 0, 0.5), made_up(lines[1], 0, 0.5)])


def test_who_is_ahead() -> None:
    one, other = Which("", "noise", "d", variant="a"), Which("", "noise", "d", variant="b")

    def verdict(*pairs: tuple[float, float], **changes: Any) -> str:
        rows = [
            made_up(which, seed, test, **changes)
            for seed, pair in enumerate(pairs)
            for which, test in zip((one, other), pair, strict=True)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("convexnet.lab.reports.claims.CONTESTS", (Contest(("d", "a", "b"), one, other),))
            return next(line for line in claims(rows).splitlines() if line.startswith("| d | a | b |"))

    # Each seed is compared with itself: seeds differ by more than the networks do.
    assert "| +1.00 ± 0.00 | convex |" in verdict((0.61, 0.60), (0.81, 0.80), (0.71, 0.70))
    assert "| the other |" in verdict((0.60, 0.62), (0.80, 0.83), (0.70, 0.72))
    assert "| not decided |" in verdict((0.60, 0.62), (0.80, 0.77))
    assert "| not decided: one seed |" in verdict((0.9, 0.1))
    assert "| not run |" in verdict()
    assert "shortened" in verdict((0.9, 0.1), (0.9, 0.1), full=False)
    full, short = made_up(one, 0, 0.5), made_up(other, 0, 0.5, full=False)
    assert paired([full], [short]) == [], "a full run is not compared with a shortened one"


def test_paths_of_keys() -> None:
    row = {"a": {"b": [0.5, 0.7]}, "c": None, "d": "words"}
    assert (found(row, "a/b/1"), found(row, "a/b/2"), found(row, "c"), found(row, "d"), found(row, "e/f")) == (
        *(0.7, None, None, None, None),
    )


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

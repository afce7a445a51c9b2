"""The study of wrong labels: what is compared differs in one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from convexnet.lab.runs.jobs import Job
from convexnet.lab.studies import noise


def test_at_matched_accuracy_the_ordinary_network_comes_with_the_decay_of_the_convex_one() -> None:
    jobs = noise.matched_jobs(range(2))
    by = {(job.variant, job.recipe.epochs, job.seed): job for job in jobs}
    assert len(by) == len(jobs) == 2 * len(noise.LENGTHS) * len(noise.MATCHED)
    for epochs in noise.LENGTHS:
        plain, decayed, convex = (by[name, epochs, 0].recipe for name in (noise.ORDINARY, noise.DECAYED, noise.T1))
        assert plain.weight_decay == 0
        assert decayed.weight_decay == convex.weight_decay > 0
        for field in ("learning_rate", "schedule", "batch", "normalise", "epochs", "optimiser", "decays"):
            assert getattr(decayed, field) == getattr(convex, field) == getattr(plain, field), field
    # Of 20 epochs they are runs of the table: nothing is trained twice.
    table = {job.key for job in noise.table_jobs((40.0,), range(2))}
    usual = [job for job in jobs if job.recipe.epochs == noise.EPOCHS and job.variant != noise.ANNEALED]
    assert all(job.key in table for job in usual)
    for epochs in noise.LENGTHS:
        constant, annealed = (by[name, epochs, 0].recipe for name in (noise.TEXT, noise.ANNEALED))
        assert constant.rate(epochs) == constant.learning_rate == annealed.learning_rate
        assert annealed.rate(epochs) < annealed.learning_rate
        assert replace(annealed, schedule=constant.schedule, name=constant.name) == constant


def row(job: Job, train: float, test: float) -> dict[str, Any]:
    return {
        "variant": job.variant,
        "dataset": job.dataset,
        "model": job.model,
        "seed": job.seed,
        "recipe": {"epochs": job.recipe.epochs, "name": job.recipe.name},
        "noise": "symmetric-including 40 %",
        "full": True,
        "certified": False,
        "epochs": job.recipe.epochs,
        "train_samples": 54_000,
        "train_accuracy": train,
        "test_accuracy": test,
        "test_accuracy_at_peak": test,
    }


def test_the_second_table_compares_at_the_same_decay() -> None:
    rows: list[dict[str, Any]] = []
    for job in noise.matched_jobs(range(1)):
        if job.recipe.epochs not in (3, 60):
            continue
        long = job.recipe.epochs == 60
        where = {noise.ORDINARY: (0.6, 0.99, 0.8), noise.DECAYED: (0.6, 0.9, 0.84), noise.T1: (0.7, 0.75, 0.83)}
        first, last, test = where.get(job.variant, (0.5, 0.6, 0.8))
        rows.append(row(job, last if long else first, test))
    (section,) = [one for one in noise.sections(rows) if "matched" in one.title]
    plain, alike = section.tables
    cells = [
        {(line[0], line[1]): line[list(table.columns).index("difference")] for line in table.rows}
        for table in (plain, alike)
    ]
    assert cells[0][noise.T1, "3"] == "+3.00"
    assert cells[1][noise.T1, "3"] == "−1.00", "what looked like convexity was the decay"
    assert (noise.DECAYED, "3") in cells[0]

"""Control: Q-learning with a Q whose negative is convex in the action, on Gymnasium's environments (poster; ICNN 6.3).

    convexnet study run control

Ours, NAF, and DDPG, TD3 and SAC of stable-baselines3 (extra `peers`), with the same steps, widths, batch, discount and
evaluations, one update a step. The environments are today's versions: the paper's figures, of other versions and an
unstated number of steps, are next to them in the report and are not the same thing. Budgets of power, Σ|a| <= c, are
what an actor cannot keep exactly: the environment moves its actions inside, and the table says how many.

Pendulum is run for the 20,000 steps of its reference, and counts as full; the others for fewer than their references'
1,000,000, and are marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from convexnet.lab.reports.control import sections
from convexnet.lab.runs.control import run
from convexnet.lab.runs.control_course import Control
from convexnet.lab.runs.jobs import Job
from convexnet.lab.studies.study import Study
from convexnet.rl.settings import Settings

LEARNERS = ("icnn-q", "naf")
PEERS = ("ddpg", "td3", "sac")
BASELINES = ("naf", *PEERS)

TUNED = Settings(sigma=0.2, weight=0.05)
"""Found on Pendulum in runs of 5,000 steps; the paper's noise is 0.1."""


@dataclass(frozen=True)
class Stage:
    """An environment of the study.

    Attributes:
        environment: its id.
        steps, seeds: on two cores and in the queue.
        every: steps between evaluations.
        full: whether that is as long as its reference.
        budget: of power; 0: none.
    """

    environment: str
    steps: int
    seeds: int
    every: int
    full: bool = False
    budget: float = 0.0


STAGES = {
    "pendulum": Stage("Pendulum-v1", 20_000, 5, 1000, full=True),
    "pendulum-limited": Stage("Pendulum-v1", 20_000, 3, 1000, full=True, budget=1.0),
    "inverted": Stage("InvertedPendulum-v5", 30_000, 3, 2000),
    "double": Stage("InvertedDoublePendulum-v5", 60_000, 2, 3000),
    "reacher": Stage("Reacher-v5", 50_000, 2, 2500),
    "reacher-limited": Stage("Reacher-v5", 50_000, 2, 2500, budget=0.5),
}

SHORTER = "shortened"
"""The recipe of fewer steps than the reference has."""

LONGEST = 1_000_000
"""Steps of the references on MuJoCo."""


def settings_of(stage: Stage, model: str) -> Settings:
    """The settings of a method on an environment."""
    own = replace(TUNED, steps=stage.steps, every=stage.every)
    if model == "naf":
        return replace(own, method="naf")
    return replace(own, targets="cutting-planes") if stage.budget else own


def job_of(
    stage: Stage, model: str, seed: int, settings: Settings | None = None, full: bool | None = None, length: int = 0
) -> Job:
    """The job of a method on an environment."""
    own = settings_of(stage, model) if settings is None else settings
    whole = stage.full if full is None else full
    recipe: Any = Control("reference" if whole else SHORTER, own, stage.budget, length=length)
    variant = f"power {stage.budget:g}" if stage.budget else ""
    return Job("control", model, stage.environment, recipe, seed, full=whole, variant=variant)


def jobs_of(names: Sequence[str], models: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The jobs of some environments, as the queue runs them."""
    return [
        job_of(STAGES[name], model, seed)
        for name in names
        for seed in seeds
        if seed < STAGES[name].seeds
        for model in models
    ]


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """All methods on all environments; to see that everything runs, two of ours on a few steps."""
    if size == "smoke":
        made: list[Job] = []
        for name in ("pendulum", "pendulum-limited"):
            for model in LEARNERS:
                small = replace(
                    settings_of(STAGES[name], model),
                    steps=60,
                    warmup=30,
                    batch=16,
                    hidden=(16, 16),
                    every=30,
                    episodes=1,
                )
                made += [job_of(STAGES[name], model, seed, small, full=False, length=10) for seed in seeds]
        return made
    if size == "two-core":
        return jobs_of(list(STAGES), (*LEARNERS, *PEERS), seeds)
    found: list[Job] = []
    for stage in STAGES.values():
        steps = stage.steps if stage.full else LONGEST
        for model in (*LEARNERS, *PEERS):
            own = replace(settings_of(stage, model), steps=steps, every=stage.every if stage.full else 20_000)
            found += [job_of(replace(stage, full=True), model, seed, own) for seed in seeds]
    return found


STUDY = Study(
    name="control",
    title="Q-learning with a Q convex in the action, and baselines",
    source="Amos, Xu & Kolter 2017, section 6.3",
    systems=("C6",),
    seeds={"smoke": 1, "two-core": 5, "full": 5},
    plan=plan,
    sections=sections,
    run=run,
)

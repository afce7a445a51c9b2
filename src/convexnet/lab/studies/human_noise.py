"""Wrong labels as people give them: CIFAR-10N at three levels, beside symmetric noise of the same rate (ours).

    convexnet study run human-noise --data-dir DATA           # two cores: the MLPs, 10,000 images, 4 epochs, 2 seeds
    convexnet study run human-noise --full --data-dir DATA    # 20 epochs; a quarter of AllConv, AllConv itself

`DATA` holds `CIFAR-10_human.pt` as it is published, or its arrays as `cifar10n.npz`. The levels: `aggre` (the majority
of three annotators, 9 % wrong), `random1` (one of them, 17 %) and `worse` (a wrong one where there was any, 40 %).
Rankings under symmetric noise do not carry over to people's: so 40 % of symmetric noise stands beside `worse`. The
validation part, which chooses the peak alone, has people's labels too. Networks and recipes are those of `noise`.

Source of the labels: Wei et al., Learning with Noisy Labels Revisited (ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convexnet.lab.models.registry import MODELS
from convexnet.lab.reports.comparison import Line
from convexnet.lab.reports.noise_tables import WHAT, noise_table
from convexnet.lab.reports.page import Section
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies import noise, table3
from convexnet.lab.studies.study import Study
from convexnet.lab.training.recipes import Recipe

KINDS = ("cifar10n-aggre", "cifar10n-random1", "cifar10n-worse")
SYMMETRIC = "symmetric-excluding"
RATE = 40.0
"""Percent of wrong labels of the symmetric kind, about those of `worse`."""

CHOSEN = (
    *(noise.ORDINARY, noise.T1, noise.TEXT, "ordinary, dropout and weight decay"),
    *("ordinary, GCE", "convex, T1, GCE", "ordinary, ELR", "convex, T1, ELR", "one hidden layer, unconstrained"),
)
NETWORKS: dict[str, tuple[str, Recipe]] = {name: noise.NETWORKS[name] for name in CHOSEN}


def jobs(networks: dict[str, tuple[str, Recipe]], dataset: str, seeds: Sequence[int], every: int) -> list[Job]:
    """All networks with every kind of labels, seed by seed."""
    return [
        Job(
            "human-noise",
            model,
            dataset,
            how,
            seed,
            variant=variant,
            noise=RATE if kind == SYMMETRIC else 0.0,
            noise_kind=kind,
            noisy_validation=True,
            measure_every=every,
        )
        for seed in seeds
        for kind in (KINDS[2], KINDS[0], KINDS[1], SYMMETRIC)
        for variant, (model, how) in networks.items()
    ]


def of_models(recipes: dict[str, Recipe]) -> dict[str, tuple[str, Recipe]]:
    """Networks that are called by their model."""
    return {MODELS[model].title: (model, how) for model, how in recipes.items()}


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """The MLPs; in full also AllConv and a quarter of it."""
    mlps = jobs(NETWORKS, "cifar10-holdout", seeds, 5)
    if size == "full":
        quarters = jobs(of_models(table3.QUARTERS), "cifar10-holdout", seeds, 5)
        return [*mlps, *quarters, *jobs(of_models(table3.ALLCONV), "cifar10", seeds, 10)]
    if size == "two-core":
        return [replace(noise.shortly(job, 4), train_samples=10_000, measure_every=2) for job in mlps]
    smoke = [job for job in mlps if job.noise_kind == SYMMETRIC and job.variant in (noise.ORDINARY, "convex, T1, GCE")]
    return [replace(noise.shortly(job, 1, (32, 32, 32)), dataset="digits") for job in smoke]


def mlps(seeds: Sequence[int]) -> list[Job]:
    """Those of the full size that two cores can finish."""
    return [job for job in plan("full", seeds) if job.variant in NETWORKS]


def sections(rows: Sequence[Row]) -> list[Section]:
    """One table: labels and networks."""
    lines: list[Line] = []
    for kind in (*KINDS, SYMMETRIC):
        here = [row for row in rows if str(row["noise"]).startswith(kind)]
        names = dict.fromkeys([*NETWORKS, *of_models(table3.QUARTERS), *of_models(table3.ALLCONV)])
        lines += [Line((words(kind), name), [row for row in here if row["variant"] == name]) for name in names]
    return [
        Section(
            "CIFAR-10N: labels as people give them",
            f"{WHAT} The MLPs and the quarter of AllConv are trained on 40,000 images of CIFAR-10 and tested on the "
            "other 10,000 of its training half (hold-out), AllConv on CIFAR-10 itself.",
            tables=[noise_table("Labels, and the network", ("labels", "network"), lines)],
        )
    ]


def words(kind: str) -> str:
    """A kind of labels as tables call it.

    Example:
        >>> words("cifar10n-worse"), words("symmetric-excluding")
        ('CIFAR-10N, worse', 'symmetric, 40 %')
    """
    return f"symmetric, {RATE:.0f} %" if kind == SYMMETRIC else kind.replace("cifar10n-", "CIFAR-10N, ")


STUDY = Study(
    name="human-noise",
    title="Labels as people give them, at three levels",
    source="ours; Wei et al. 2022; Sivaprasad et al. 2021, table 3",
    systems=("A4",),
    seeds={"smoke": 1, "two-core": 2, "full": 3},
    plan=plan,
    sections=sections,
)

"""What each choice in making a convex network does: one change at a time, on Fashion-MNIST (ours).

    convexnet study run constraint-ablation --data-dir DATA           # two cores: 5,000 images, 8 epochs, 3 seeds
    convexnet study run constraint-ablation --full --data-dir DATA    # all images, 100 epochs, 5 seeds

Sivaprasad et al. 2021 (section 4) report that exponentiation was the best of four methods, and that scales of BatchNorm
may be left free, without numbers for either. Everything is compared with one base: the IOC-MLP with exponentiation,
constrained scales, ELU, Adam at a constant 1e-3, mean and spread of the images, no augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from convexnet.lab.models.convex import Convex
from convexnet.lab.reports.comparison import Line, comparison
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.study_pictures import bars_panel
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import Row
from convexnet.lab.studies.study import Study, shortened
from convexnet.lab.training.recipes import Recipe

BASE = Recipe(name="ablation", epochs=100, batch=128, learning_rate=1e-3)


def with_convex(how: Convex) -> Recipe:
    """The base with another way to make the network convex."""
    return replace(BASE, convex=how)


VARIANTS: Mapping[str, Mapping[str, Recipe]] = MappingProxyType(
    {
        "base": {"exponentiate, γ kept, ELU": BASE},
        "method": {name: with_convex(Convex(method=name)) for name in ("clip", "absolute", "shift", "softplus", "exp")},
        "scales of BatchNorm": {"γ free (not convex)": with_convex(Convex(free_gamma=True))},
        "activation": {name: with_convex(Convex(activation=name)) for name in ("relu", "softplus", "leaky_relu")},
        "inputs": {
            "whitened (ZCA)": replace(BASE, normalise="zca"),
            "pixels in [0, 1]": replace(BASE, normalise="none"),
        },
        "first layer": {"twice as wide": with_convex(Convex(widen_first=2.0))},
        "learning rate": {
            "falls to 1 %": replace(BASE, decay=0.01),
            "falls to 10 %, more slowly": replace(BASE, decay=0.1),
            "a cosine to 0": replace(BASE, schedule="cosine"),
        },
        "augmentation": {"the published code's": replace(BASE, augment="paper-code")},
        "start": {name: with_convex(Convex(init=name)) for name in ("paper", "lognormal", "identity")},
        "head": {"free": with_convex(Convex(free_head=True))},
    }
)


def plan(size: str, seeds: Sequence[int]) -> list[Job]:
    """Every variant, and the ordinary MLP in the base recipe."""
    named = [("ioc-mlp", f"{group}: {name}", how) for group, some in VARIANTS.items() for name, how in some.items()]
    jobs: list[Job] = []
    for seed in seeds:
        for model, variant, how in [*named, ("mlp", "ordinary MLP", BASE)]:
            job = Job("constraint-ablation", model, "fashion-mnist", how, seed, variant=variant)
            if size == "two-core":
                job = replace(
                    job,
                    recipe=shortened(how, 8),
                    full=False,
                    train_samples=5_000,
                    validation=0.05,
                    measure_every=4,
                )
            elif size == "smoke":
                job = replace(job, dataset="digits", recipe=shortened(how, 1), full=False)
            jobs.append(job)
    return jobs


def sections(rows: Sequence[Row]) -> list[Section]:
    """One table, and the test accuracies as bars."""
    names = list(dict.fromkeys(job.variant for job in plan("full", [0])))
    lines = [Line(words(variant), [row for row in rows if row["variant"] == variant]) for variant in names]
    return [
        Section(
            "Constraint ablation on Fashion-MNIST",
            "One change at a time from the base in the first line; the last line is the ordinary network in the same "
            "recipe. A network with free scales counts as not certified, whatever its last weights are: nothing keeps "
            "it convex. Its numbers are those of the base where no scale turned negative while it trained.",
            tables=[
                comparison("Recipe ablation: Adam at 1e-3, batches of 128", ("what", "choice"), lines, paper=False)
            ],
            panels=bars_panel(lines),
        )
    ]


def words(variant: str) -> tuple[str, str]:
    """A variant as two cells.

    Example:
        >>> words("method: clip"), words("ordinary MLP")
        (('method', 'clip'), ('ordinary MLP', ''))
    """
    group, _, name = variant.partition(": ")
    return group, name


STUDY = Study(
    name="constraint-ablation",
    title="Methods, scales, activations, inputs, starts and heads, one change at a time",
    source="ours; Sivaprasad et al. 2021, section 4 and appendix B",
    systems=("A1",),
    seeds={"smoke": 1, "two-core": 3, "full": 5},
    plan=plan,
    sections=sections,
)

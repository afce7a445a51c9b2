"""Put the paper's claims beside what is recorded of them, as Markdown.

A line without records says "not run". `docs/tools/claims.py` writes the text between two marks of two pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convexnet.lab.reports.comparison import NOT_RUN, Line, extent, shown
from convexnet.lab.reports.noise_tables import level_of
from convexnet.lab.reports.page import Table
from convexnet.lab.runs.records import Row

BEGIN, END = "<!-- claims: from the records -->", "<!-- end of the claims -->"

COLUMNS = (
    ("train", "train_accuracy"),
    ("test", "test_accuracy"),
    ("test at peak", "test_accuracy_at_peak"),
    ("wrong labels given back", "memorised_wrong_labels"),
)


@dataclass(frozen=True)
class Which:
    """Records of one line: those of a study whose model or variant, data set and level of noise are these.

    `level` is in percent; None: any. `epochs`: those of the recipe alone; None: any.
    """

    words: str
    study: str
    dataset: str
    variant: str = ""
    model: str = ""
    level: float | None = None
    kind: str = ""
    epochs: int | None = None

    def rows(self, records: Sequence[Row]) -> list[Row]:
        """Those records."""
        return [
            row
            for row in records
            if (row["study"], row["dataset"]) == (self.study, self.dataset)
            and row.get("task", "classification") == "classification"
            and (not self.variant or row["variant"] == self.variant)
            and (not self.model or row["model"] == self.model)
            and (self.level is None or level_of(row) == self.level)
            and (not self.kind or str(row.get("noise")).startswith(self.kind))
            and (self.epochs is None or row["recipe"]["epochs"] == self.epochs)
        ]


PARITY = (
    ("the paper's text", "the paper's text"),
    ("convex, T1 (ours)", "convex, T1 (ours)"),
    ("convex, T2: head clipped", "convex, T2: head clipped"),
    ("one hidden layer, unconstrained", "one hidden layer: convex for nothing"),
    ("ordinary", "ordinary, early stopping at its peak"),
    ("ordinary, dropout and weight decay", "ordinary, dropout and weight decay"),
)
NOISY = (
    *PARITY[:4],
    *PARITY[4:],
    *((name, name) for name in ("ordinary, weight decay", "ordinary, dropout", "ordinary, label smoothing")),
    *((name, name) for name in ("convex, T1, label smoothing", "ordinary, GCE", "convex, T1, GCE")),
    *((name, name) for name in ("ordinary, ELR", "convex, T1, ELR")),
)


def parity(dataset: str) -> tuple[Which, ...]:
    """The lines of the study `parity` on a data set."""
    return tuple(Which(words, "parity", dataset, variant=variant) for variant, words in PARITY)


def noise(level: float) -> tuple[Which, ...]:
    """The lines of the study `noise` at a level, of 20 epochs."""
    return tuple(
        Which(words, "noise", "fashion-mnist", variant=variant, level=level, epochs=20) for variant, words in NOISY
    )


STARTS = ("convex, T1 (ours)", "T1, start paper", "T1, start lognormal", "the paper's text, its start alone")
CLAIMS: tuple[tuple[str, tuple[Which, ...]], ...] = (
    ("A convex MLP generalises at least as well (table 1): Fashion-MNIST, true labels", parity("fashion-mnist")),
    ("The same on the hold-out of CIFAR-10", parity("cifar10-holdout")),
    (
        "Scales of BatchNorm may be left free (section 4): Fashion-MNIST",
        tuple(
            Which(words, "constraint-ablation", "fashion-mnist", variant=variant)
            for words, variant in (
                ("γ constrained, as is proved", "base: exponentiate, γ kept, ELU"),
                ("γ free, which is not convex", "scales of BatchNorm: γ free (not convex)"),
            )
        ),
    ),
    ("Convexity resists wrong labels (table 3): Fashion-MNIST, 40 % drawn anew", noise(40.0)),
    ("The same at 80 %", noise(80.0)),
    ("The same at 0 %, what resistance costs", noise(0.0)),
    (
        "Convexity, or the start? 40 %, T1 with other starts, and a start without the constraint",
        tuple(Which(name, "noise", "fashion-mnist", variant=name, level=40.0, epochs=20) for name in STARTS),
    ),
    (
        "One output (T3), where convexity does restrict: tops against the rest, 40 %",
        (
            Which("ordinary, one output", "noise", "fashion-mnist-tops", variant="ordinary, one output", level=40.0),
            Which("the rest convex", "noise", "fashion-mnist-tops", variant="T3, the rest convex", level=40.0),
            Which("the tops convex", "noise", "fashion-mnist-tops-convex", variant="T3, the tops convex", level=40.0),
        ),
    ),
    (
        "Labels as people give them (CIFAR-10N, worse: 40 % wrong)",
        tuple(
            Which(name, "human-noise", "cifar10-holdout", variant=name, kind="cifar10n-worse")
            for name in ("the paper's text", "convex, T1 (ours)", "ordinary", "ordinary, ELR", "convex, T1, ELR")
        ),
    ),
    (
        "Convolution (tables 2 and 3, figure 1): a quarter of AllConv on the hold-out",
        tuple(
            Which(f"{words}, {level:.0f} % drawn anew", "fig1", "cifar10-holdout", model=model, level=level)
            for level in (0.0, 50.0)
            for words, model in (("ordinary", "allconv-quarter"), ("convex", "ioc-allconv-quarter"))
        ),
    ),
    (
        "Recurrent networks (future work): MNIST, row by row",
        tuple(
            Which(words, "recurrent", "mnist", model=model)
            for words, model in (("ordinary RNN", "rnn"), ("convex RNN", "ioc-rnn"), ("ICRNN", "icrnn"))
        ),
    ),
    (
        "Polyhedral classifiers fail on XOR (section 2)",
        tuple(
            Which(f"{words}, {toy}", "polyhedral", f"xor-{toy}", model=model)
            for toy in ("points", "quadrants")
            for words, model in (("polyhedron", "polyhedron"), ("two convex outputs", "ioc-mlp-2"))
        ),
    ),
)
"""A claim, and the lines that bear on it."""


def claims(records: Sequence[Row]) -> str:
    """All claims as Markdown tables, each with what is recorded of it."""
    heads = ("network", *(name for name, _ in COLUMNS), "gap", "ECE", "certified", "seeds", "run")
    parts: list[str] = []
    for title, lines in CLAIMS:
        cells = [[which.words, *measured(Line((which.words,), which.rows(records)).counted)] for which in lines]
        parts += [f"### {title}", Table("", heads, cells).markdown()]
    return "\n\n".join(parts)


def measured(rows: Sequence[Row]) -> list[str]:
    """The cells of a line."""
    if not rows:
        return ["–"] * (len(COLUMNS) + 4) + [NOT_RUN]
    return [
        *(shown([row.get(kind) for row in rows]) for _, kind in COLUMNS),
        shown([row["gap"] for row in rows]),
        shown([row.get("ece") for row in rows], scale=1.0, digits=3),
        f"{sum(bool(row['certified']) for row in rows)} of {len(rows)}",
        str(len({row["seed"] for row in rows})),
        extent(rows),
    ]


def filled(page: str, text: str) -> str:
    """A page with this text between its marks.

    Raises:
        ValueError: the page has not both marks, in their order.

    Example:
        >>> filled(f"a\\n{BEGIN}\\nold\\n{END}\\nb", "new").splitlines()[2:4]
        ['', 'new']
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the claims: {BEGIN} and {END}, each on a line of its own")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"

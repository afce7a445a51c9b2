"""List the paper's claims, and the records that bear on each: what `claims.py` fills in.

Literal, and in the order of the page. A claim names networks by their variant or model, as studies do; a test sees that
each is one that some study runs.

Long because it is one list, and a reader looks for a claim in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convexnet.lab.reports.noise_tables import level_of
from convexnet.lab.runs.records import Row


@dataclass(frozen=True)
class Column:
    """What is shown of each record: its key, or a path of keys with slashes; shares in percent have a scale of 100."""

    head: str
    key: str
    scale: float = 100.0
    digits: int = 2


ECE = Column("ECE", "ece", 1.0, 3)
USUAL = (
    Column("train", "train_accuracy"),
    Column("test", "test_accuracy"),
    Column("test at peak", "test_accuracy_at_peak"),
    Column("wrong labels given back", "memorised_wrong_labels"),
    Column("gap", "gap"),
    ECE,
)


@dataclass(frozen=True)
class Which:
    """Records of one line: those of a study whose model or variant, data set and level of noise are these.

    `study` may name several, separated by "/", which share runs. `level` is in percent; None: any. `epochs`: those of
    the recipe alone; None: any. `recipe`: its name; empty: any.
    """

    words: str
    study: str
    dataset: str
    variant: str = ""
    model: str = ""
    level: float | None = None
    kind: str = ""
    epochs: int | None = None
    recipe: str = ""

    @property
    def studies(self) -> tuple[str, ...]:
        """The studies that make such a record."""
        return tuple(self.study.split("/"))

    def rows(self, records: Sequence[Row]) -> list[Row]:
        """Those records."""
        return [
            row
            for row in records
            if row["study"] in self.studies
            and row["dataset"] == self.dataset
            and row.get("task", "classification") == "classification"
            and (not self.variant or row["variant"] == self.variant)
            and (not self.model or row["model"] == self.model)
            and (self.level is None or level_of(row) == self.level)
            and (not self.kind or str(row.get("noise")).startswith(self.kind))
            and (self.epochs is None or row["recipe"]["epochs"] == self.epochs)
            and (not self.recipe or row["recipe"]["name"] == self.recipe)
        ]


@dataclass(frozen=True)
class Claim:
    """A table: its title, what is said of it, its lines and columns; `shifted`: tier T0 is spoken of below it."""

    title: str
    lines: tuple[Which, ...]
    text: str = ""
    columns: tuple[Column, ...] = USUAL
    head: str = "network"
    shifted: bool = False


@dataclass(frozen=True)
class Contest:
    """A convex network and another one, on the same data and from the same seeds; the words are data and both names."""

    words: tuple[str, str, str]
    convex: Which
    other: Which


T1, TEXT, ORDINARY = "convex, T1 (ours)", "the paper's text", "ordinary"
DECAYED, REGULARISED = "ordinary, weight decay", "ordinary, dropout and weight decay"
SHALLOW, T2 = "one hidden layer, unconstrained", "convex, T2: head clipped"
FASHION, HOLDOUT = "fashion-mnist", "cifar10-holdout"

PARITY = (
    (TEXT, TEXT),
    (T1, T1),
    (T2, T2),
    (SHALLOW, "one hidden layer: convex without a constraint"),
    (ORDINARY, "ordinary, early stopping at its peak"),
    (REGULARISED, REGULARISED),
)
NOISY = (
    *PARITY,
    *((name, name) for name in (DECAYED, "ordinary, dropout", "ordinary, label smoothing")),
    *((name, name) for name in ("convex, T1, label smoothing", "ordinary, GCE", "convex, T1, GCE")),
    *((name, name) for name in ("ordinary, SCE", "convex, T1, SCE", "ordinary, ELR", "convex, T1, ELR")),
)


def parity(dataset: str) -> tuple[Which, ...]:
    """The lines of the study `parity` on a data set."""
    return tuple(Which(words, "parity/fig6", dataset, variant=variant) for variant, words in PARITY)


def noisy(variant: str, level: float, words: str = "", *, dataset: str = FASHION, model: str = "") -> Which:
    """A line of the study `noise` at a level, of 20 epochs."""
    return Which(words or variant, "noise", dataset, variant=variant, level=level, epochs=20, model=model)


def noise(level: float) -> tuple[Which, ...]:
    """The lines of the study `noise` at a level."""
    return tuple(noisy(variant, level, words) for variant, words in NOISY)


# --- at equal training accuracy --------------------------------------------------------------------------------------

LENGTHS = (3, 6, 12, 20, 60)
MATCHED = (
    (ORDINARY, ORDINARY),
    (DECAYED, DECAYED),
    (T1, T1),
    (TEXT, TEXT),
    ("the paper's text, annealed", "the paper's text, annealed"),
)
"""Variants of the study `noise` and what they are called; the first two are references."""

# --- who is ahead ----------------------------------------------------------------------------------------------------


def clean(dataset: str, title: str) -> tuple[Contest, ...]:
    """The contests of `parity` on a data set."""
    return tuple(
        Contest(
            (title, convex, other),
            Which("", "parity/fig6", dataset, variant=convex),
            Which("", "parity/fig6", dataset, variant=other),
        )
        for convex, other in ((TEXT, ORDINARY), (T1, ORDINARY), (T1, REGULARISED), (T1, SHALLOW))
    )


def wrong(level: float, *pairs: tuple[str, str]) -> tuple[Contest, ...]:
    """Contests of `noise` at a level."""
    title = f"Fashion-MNIST, {level:.0f} % drawn anew"
    return tuple(Contest((title, convex, other), noisy(convex, level), noisy(other, level)) for convex, other in pairs)


LOSSES = ("label smoothing", "GCE", "SCE", "ELR")
USUAL_PAIRS = ((TEXT, ORDINARY), (T1, ORDINARY), (T1, DECAYED), (T1, REGULARISED), (T1, SHALLOW))

CONTESTS: tuple[Contest, ...] = (
    *clean(FASHION, "Fashion-MNIST, true labels"),
    *clean(HOLDOUT, "CIFAR-10 hold-out, true labels"),
    *wrong(40.0, *USUAL_PAIRS, *((f"convex, T1, {loss}", f"ordinary, {loss}") for loss in LOSSES)),
    *wrong(80.0, *USUAL_PAIRS),
    *(
        Contest(
            ("CIFAR-10N, worse", convex, other),
            Which("", "human-noise", HOLDOUT, variant=convex, kind="cifar10n-worse"),
            Which("", "human-noise", HOLDOUT, variant=other, kind="cifar10n-worse"),
        )
        for convex, other in ((TEXT, ORDINARY), (T1, ORDINARY), (T1, REGULARISED), ("convex, T1, ELR", "ordinary, ELR"))
    ),
    *(
        Contest(
            (f"CIFAR-10 hold-out, {level:.0f} % drawn anew", "a quarter of AllConv, convex", "ordinary"),
            Which("", "fig1/fig6/table2", HOLDOUT, model="ioc-allconv-quarter", level=level),
            Which("", "fig1/fig6/table2", HOLDOUT, model="allconv-quarter", level=level),
        )
        for level in (0.0, 50.0)
    ),
    Contest(
        ("MNIST, row by row", "convex RNN", "ordinary RNN"),
        Which("", "recurrent", "mnist", model="ioc-rnn"),
        Which("", "recurrent", "mnist", model="rnn"),
    ),
)

# --- the tables ------------------------------------------------------------------------------------------------------

STARTS = (T1, "T1, start paper", "T1, start lognormal", "the paper's text, its start alone")
MIXTURE = (
    Column("train", "train_accuracy"),
    Column("test", "test_accuracy"),
    Column("oracle", "oracle_accuracy"),
    Column("experts used", "experts_used", 1.0, 1),
    Column("gap", "gap"),
)
BOOSTED = (
    Column("single", "expert_accuracy/0"),
    Column("vote or gate", "test_accuracy"),
    Column("convex mean", "fused_accuracy"),
    Column("oracle", "oracle_accuracy"),
)
CALIBRATION = (
    Column("test", "test_accuracy"),
    ECE,
    Column("if perfect", "ece_perfect", 1.0, 3),
    Column("NLL", "nll", 1.0, 3),
    Column("temperature", "temperature", 1.0, 2),
    Column("ECE, scaled", "ece_scaled", 1.0, 3),
)
SEEN = (
    Column("all", "duplicates/test/accuracy"),
    Column("without near-duplicates", "duplicates/test/unique_accuracy"),
    Column("near-duplicates alone", "duplicates/test/duplicate_accuracy"),
    Column("how many", "duplicates/test/duplicates", 1.0, 0),
    Column("1,017 official", "duplicates/official-1017, listed/accuracy"),
    Column("without the 35 listed", "duplicates/official-1017, listed/unique_accuracy"),
)


def calibrated() -> tuple[Which, ...]:
    """The lines of calibration: the MLPs of `parity`, and two architectures of Fig. 6."""
    names = (TEXT, T1, ORDINARY, REGULARISED)
    mlps = [
        Which(f"{name}, {title}", "parity/fig6", dataset, variant=name)
        for dataset, title in ((FASHION, "Fashion-MNIST"), (HOLDOUT, "hold-out"))
        for name in names
    ]
    others = [
        Which(f"{words}, hold-out", "fig1/fig6/table2", HOLDOUT, model=model, level=0.0)
        for words, model in (
            ("a quarter of AllConv, ordinary", "allconv-quarter"),
            ("a quarter of AllConv, convex", "ioc-allconv-quarter"),
            ("DenseNet of depth 16, ordinary", "densenet-16"),
            ("DenseNet of depth 16, convex", "ioc-densenet-16"),
        )
    ]
    return (*mlps, *others)


CLAIMS: tuple[Claim, ...] = (
    Claim("A convex MLP generalises at least as well (table 1): Fashion-MNIST, true labels", parity(FASHION)),
    Claim("The same on the hold-out of CIFAR-10", parity(HOLDOUT)),
    Claim(
        "It beats a ReLU network constrained alike, and FICNN (table 4): hold-out of CIFAR-10, the paper's text",
        tuple(
            Which(words, "table1/table4/appendix-c", HOLDOUT, model=model, recipe="paper-text")
            for words, model in (
                ("ordinary MLP", "mlp"),
                ("ReLU, constrained", "relu-mlp"),
                ("FICNN", "ficnn"),
                ("IOC-MLP", "ioc-mlp"),
            )
        ),
    ),
    Claim(
        "Scales of BatchNorm may be left free (section 4): Fashion-MNIST",
        tuple(
            Which(words, "constraint-ablation", FASHION, variant=variant)
            for words, variant in (
                ("γ constrained, as is proved", "base: exponentiate, γ kept, ELU"),
                ("γ free, which is not convex", "scales of BatchNorm: γ free (not convex)"),
            )
        ),
    ),
    Claim("Convexity resists wrong labels (table 3): Fashion-MNIST, 40 % drawn anew", noise(40.0)),
    Claim("The same at 80 %", noise(80.0)),
    Claim("The same at 0 %, what resistance costs", noise(0.0)),
    Claim(
        "The paper's own recipe, to convergence (table 3): MLPs on the hold-out of CIFAR-10",
        tuple(
            Which(f"{words}, {level:.0f} % drawn anew", "table3", HOLDOUT, model=model, level=level)
            for level in (40.0, 80.0, 100.0)
            for words, model in (("ordinary MLP", "mlp"), ("IOC-MLP", "ioc-mlp"))
        ),
    ),
    Claim(
        "Convexity, or how much of it? 40 %, from no restriction (T0) to one output (T3)",
        (
            noisy(ORDINARY, 40.0, "T0: ordinary, whose logits can be shifted into convex ones"),
            noisy(T1, 40.0, "T1: free head"),
            noisy(T2, 40.0, "T2: head kept non-negative"),
            noisy(
                "ordinary, one output", 40.0, "one output, ordinary: tops against the rest", dataset=f"{FASHION}-tops"
            ),
            noisy("T3, the rest convex", 40.0, "T3: the rest convex", dataset=f"{FASHION}-tops"),
            noisy("T3, the tops convex", 40.0, "T3: the tops convex", dataset=f"{FASHION}-tops-convex"),
        ),
        text="Lines of one output have two classes, and are to be compared with one another alone.",
        shifted=True,
    ),
    Claim(
        "Convexity, or the start? 40 %, T1 with other starts, and a start without the constraint",
        tuple(noisy(name, 40.0) for name in STARTS),
    ),
    Claim(
        "Labels as people give them (CIFAR-10N, worse: 40 % wrong)",
        tuple(
            Which(name, "human-noise", HOLDOUT, variant=name, kind="cifar10n-worse")
            for name in (TEXT, T1, ORDINARY, REGULARISED, "ordinary, ELR", "convex, T1, ELR")
        ),
    ),
    Claim(
        "Convolution (tables 2 and 3, figure 1): small networks on the hold-out",
        (
            *(
                Which(f"{words}, {level:.0f} % drawn anew", "fig1/fig6/table2", HOLDOUT, model=model, level=level)
                for level in (0.0, 50.0)
                for words, model in (
                    ("a quarter of AllConv, ordinary", "allconv-quarter"),
                    ("a quarter of AllConv, convex", "ioc-allconv-quarter"),
                )
            ),
            *(
                Which(words, "fig6/table2", HOLDOUT, model=model, level=0.0)
                for words, model in (
                    ("DenseNet of depth 16, ordinary", "densenet-16"),
                    ("DenseNet of depth 16, convex", "ioc-densenet-16"),
                )
            ),
        ),
    ),
    Claim(
        "Convex networks are better calibrated (figure 6)",
        calibrated(),
        text="“If perfect” is what a perfectly calibrated network would show on as many test images. A dash: the "
        "record is from before this was measured. Temperature scaling keeps every decision, and convexity.",
        columns=CALIBRATION,
    ),
    Claim(
        "Convex networks do not live on images that they have seen (table 5): hold-out of CIFAR-10",
        tuple(Which(name, "table5", HOLDOUT, variant=name) for name in (TEXT, T1, ORDINARY, REGULARISED)),
        text="ciFAIR's images are not at hand. Near-duplicates of the training images are told from the other test "
        "images by the correlation of their details.",
        columns=SEEN,
    ),
    Claim(
        "A gate over convex experts makes up for their convexity (figures 4 and 5a)",
        (
            Which("V-shape, five convex experts", "fig4", "vee", model="ioc-mixture-5"),
            Which("animals or not, ordinary network", "fig5", f"{HOLDOUT}-animals", model="mlp-signs"),
            *(
                Which(
                    f"animals or not, {count} convex expert{'' if count == 1 else 's'}",
                    "fig5",
                    f"{HOLDOUT}-animals",
                    model=f"ioc-mixture-{count}",
                )
                for count in (1, 2, 5, 10)
            ),
            *(
                Which(
                    f"animals or not, {count} ordinary expert{'' if count == 1 else 's'}",
                    "fig5",
                    f"{HOLDOUT}-animals",
                    model=f"mixture-{count}",
                )
                for count in (1, 2, 5, 10)
            ),
        ),
        text="Each expert is certified; a gated mixture is not convex, whatever its experts are, and so none is "
        "certified. The oracle takes an expert that is right, if there is one.",
        columns=MIXTURE,
        head="mixture",
    ),
    Claim(
        "Three boosted convex experts and a gate reach the ordinary network (table 6): MLPs on the hold-out",
        (
            Which("three experts, SAMME", "table6", HOLDOUT, model="boosted-mlp"),
            Which("a gate over them", "table6", HOLDOUT, model="gate-mlp"),
        ),
        text="A vote and a gate are not convex; the mean of the logits is, and is certified in its own column of the "
        "report.",
        columns=BOOSTED,
        head="ensemble",
    ),
    Claim(
        "Recurrent networks (future work): MNIST, row by row",
        tuple(
            Which(words, "recurrent", "mnist", model=model)
            for words, model in (("ordinary RNN", "rnn"), ("convex RNN", "ioc-rnn"), ("ICRNN", "icrnn"))
        ),
    ),
    Claim(
        "Polyhedral classifiers fail on XOR (section 2)",
        tuple(
            Which(f"{words}, {toy}", "polyhedral", f"xor-{toy}", model=model)
            for toy in ("points", "quadrants")
            for words, model in (("polyhedron", "polyhedron"), ("two convex outputs", "ioc-mlp-2"))
        ),
    ),
)
"""In the order of the page."""

"""Put the paper's claims beside what is recorded of them, as Markdown.

A line without records says "not run". `docs/tools/claims.py` writes the text between two marks of two pages.
`claims_list.py` has the claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convexnet.lab.reports.claims_list import CLAIMS, CONTESTS, LENGTHS, MATCHED, Claim, Column, Contest
from convexnet.lab.reports.comparison import NOT_RUN, Line, extent, interval, shown, signed
from convexnet.lab.reports.noise_tables import level_of, matched, of_t0
from convexnet.lab.reports.page import Table
from convexnet.lab.runs.records import Row

BEGIN, END = "<!-- claims: from the records -->", "<!-- end of the claims -->"


def claims(records: Sequence[Row]) -> str:
    """All claims as Markdown tables, each with what is recorded of it."""
    parts = [contests(records), matches(records)]
    for claim in CLAIMS:
        rows = [Line((which.words,), which.rows(records)).counted for which in claim.lines]
        heads = (claim.head, *(column.head for column in claim.columns), "certified", "seeds", "run")
        cells = [[which.words, *measured(own, claim.columns)] for which, own in zip(claim.lines, rows, strict=True)]
        parts += [f"### {claim.title}", *([claim.text] if claim.text else []), Table("", heads, cells).markdown()]
        if claim.shifted:
            parts.append(of_t0([row for row in records if row["study"] == "noise"]))
        if said := missing(claim, rows):
            parts.append(said)
    return "\n\n".join(parts)


def measured(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """The cells of a line."""
    if not rows:
        return ["–"] * (len(columns) + 2) + [NOT_RUN]
    return [
        *(shown([found(row, one.key) for row in rows], scale=one.scale, digits=one.digits) for one in columns),
        f"{sum(bool(row['certified']) for row in rows)} of {len(rows)}",
        str(len({row["seed"] for row in rows})),
        extent(rows),
    ]


def found(row: Row, key: str) -> float | None:
    """What a record has under a key, or under a path of keys and places; None where it has nothing there.

    Example:
        >>> found({"duplicates": {"test": {"accuracy": 0.5}}}, "duplicates/test/accuracy"), found({}, "ece")
        (0.5, None)
    """
    value: object = row
    for step in key.split("/"):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
    return float(value) if isinstance(value, (int, float)) else None


def missing(claim: Claim, rows: Sequence[Sequence[Row]]) -> str:
    """Which lines have no record or a shortened one, and what makes it; empty where all are there."""
    without = [which for which, own in zip(claim.lines, rows, strict=True) if not own]
    short = sum(bool(own) and not all(row["full"] for row in own) for own in rows)
    if not without and not short:
        return ""
    said: list[str] = []
    if without:
        count = "None" if len(without) == len(rows) else f"All but {len(without)}"
        studies = " and ".join(f"`{name}`" for name in dict.fromkeys(which.studies[0] for which in without))
        said.append(f"{count} of these {len(rows)} lines are recorded: `convexnet study queue` has them, of {studies}.")
    if short:
        said.append("What is shortened shows that it runs, and no more.")
    return " ".join(said)


# --- who is ahead ----------------------------------------------------------------------------------------------------


def contests(records: Sequence[Row]) -> str:
    """The table of where the convex network wins and where it loses."""
    cells = [[*contest.words, *decided(contest, records)] for contest in CONTESTS]
    heads = ("data", "convex", "against", "at the end", "at the peak", "who is ahead", "seeds", "run")
    return "\n\n".join(
        [
            "### Where the convex network wins, and where it loses",
            "Test accuracy of the convex network minus that of the other, in points, seed by seed (both have the same "
            "validation part and the same wrong labels), with half of the 95 % interval. “Ahead” is said where the "
            "interval of the difference at the validation peak does not hold 0.",
            Table("", heads, cells, text=3).markdown(),
        ]
    )


def decided(contest: Contest, records: Sequence[Row]) -> list[str]:
    """The differences of a contest, and what they say."""
    pairs = paired(*(Line((), which.rows(records)).counted for which in (contest.convex, contest.other)))
    if not pairs:
        return ["–", "–", "–", "–", NOT_RUN]
    ends, peaks = (
        [100 * (float(one[key]) - float(other[key])) for one, other in pairs]
        for key in ("test_accuracy", "test_accuracy_at_peak")
    )
    mean, half = interval(peaks)
    verdict = "not decided: one seed" if half is None else "not decided" if abs(mean) <= half else ""
    verdict = verdict or ("convex" if mean > 0 else "the other")
    rows = [row for pair in pairs for row in pair]
    return [signed(ends), signed(peaks), verdict, str(len(pairs)), extent(rows)]


def paired(convex: Sequence[Row], other: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The records of two networks by seed, of those that both have; a full run is not compared with a shortened one."""
    by = {row["seed"]: row for row in other}
    return [
        (row, by[row["seed"]])
        for row in sorted(convex, key=lambda row: row["seed"])
        if row["seed"] in by and row["full"] == by[row["seed"]]["full"]
    ]


def matches(records: Sequence[Row]) -> str:
    """The comparison at equal training accuracy."""
    full = [
        row
        for row in records
        if (row["study"], row["dataset"]) == ("noise", "fashion-mnist") and row["full"] and level_of(row) == 40
    ]
    families = {
        words: {
            epochs: [r for r in full if r["variant"] == variant and r["recipe"]["epochs"] == epochs]
            for epochs in LENGTHS
        }
        for variant, words in MATCHED
    }
    parts = [
        "### Convexity, or underfitting? At equal training accuracy, Fashion-MNIST, 40 % drawn anew",
        "“Difference” is the test accuracy minus what the reference reaches at the same training accuracy, seed by "
        "seed, between two of its lengths and never beyond them. The rates of ours and of the ordinary networks fall "
        "to 0 by the last epoch of each length: in the midst of a schedule the steps are still large, and a network "
        "that is cut there is not one whose schedule ends there. The paper’s text has a constant rate, which never "
        "falls; the line “annealed” has the same network with a rate that does.",
    ]
    names = [words for _, words in MATCHED]
    for reference in (names[0], names[1]):
        others = {name: families[name] for name in names if name not in names[:2] or name == reference}
        table, _ = matched("", others, reference)
        parts.append(table.markdown())
    return "\n\n".join(parts)


# --- the pages -------------------------------------------------------------------------------------------------------


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

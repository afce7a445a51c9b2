"""The house around the package: commands, the list of systems, links, and nothing that belongs to one machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convexnet.curvature.table import TABLE

ROOT = Path(__file__).resolve().parent.parent
IDS = [f"A{n}" for n in range(1, 14)] + [f"B{n}" for n in range(1, 6)] + [f"C{n}" for n in range(1, 9)]
STATES = ("done", "runs", "in part", "planned")
TARGETS = {"help", "demo", "test", "lint", "format", "docs", "slow", "durations", "fuzz", "bench", "clean"}
PRIVATE = {
    "a path of one machine": re.compile(r"(?<![\w.:/])/(?:work|root|home|Users|opt|tmp)/\w"),
    "an issue number": re.compile(r"\bissues?\s+#\d", re.IGNORECASE),
}


def files() -> list[Path]:
    """What is under version control or will be; without git, everything outside hidden and built folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        found = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        tops = [path for path in ROOT.iterdir() if not re.match(r"\.|build$|dist$|runs$", path.name)]
        found = [path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])]
    return [path for path in found if path.is_file()]


def rows() -> list[list[str]]:
    """The table of docs/systems.md: id, system, source, state, where."""
    text = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(r"\| [ABC]\d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_makefile() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    described = set(re.findall(r"^([a-z]+):.*## \S", text, re.MULTILINE))
    assert described == TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS


def test_continuous_integration_runs_the_same_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "exec make test"


def test_every_system_is_listed_once() -> None:
    assert [row[0] for row in rows()] == IDS
    assert {len(row) for row in rows()} == {5}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_state_of_a_system(row: list[str]) -> None:
    _, _, _, state, where = row
    assert state.startswith(STATES), f"the state is one of {STATES}"
    named = re.findall(r"`([^`\s]+/[^`\s]*|[^`\s]+\.py)`", where)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    if state.startswith("planned"):
        assert not named, "a planned row has nothing to show"
    else:
        assert any(name.startswith("src/") for name in named), "what runs names its source"
    if state.startswith("done"):
        assert any(name.startswith("tests/") for name in named), "what is done names its test"
        assert any(name.startswith("results/") for name in named), "what is done names its recorded result"


@pytest.mark.parametrize(
    "page", sorted(path for path in files() if path.suffix == ".md"), ids=lambda page: str(page.relative_to(ROOT))
)
def test_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://|mailto:", target):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in slugs, f"{page.name} links to {target}"


def test_nothing_private() -> None:
    found: list[str] = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {what}" for what, pattern in PRIVATE.items() if pattern.search(text)]
    assert not found


# --- what is known of an operator is said once -----------------------------------------------------------------------

PACKAGE = ROOT / "src" / "convexnet"
OTHER_NAMES = ("nn", "zoo", "initialise", "lab", "storage")
"""Rooms that look at no operator: "relu" is a setting there, and "sum" a function of Python's."""
OWN_TABLES = {
    "curvature/table.py": "the table",
    "form/operators.py": "how an operator is lowered to affine maps and convex atoms",
    "curvature/adversary/kink_table.py": "the adversary's own: an attack must not believe what it attacks",
    "choices.py": "words by which a user chooses an activation or a constraint",
}
"""Where operators may be listed beside the table, and why."""


def tables(source: str) -> Iterator[tuple[str, list[str]]]:
    """Literal collections with the names of three operators or more: the variable or function that each is in, and
    the names. A pair whose first part is a name is an entry, too; so are words of a text that is split, keywords of
    `dict`, alternatives of a `case`, and operators themselves (`aten.add`, `"aten.add.Tensor"`)."""
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement]
        where = getattr(targets[0], "name", getattr(targets[0], "id", ""))
        if isinstance(statement, ast.AnnAssign):
            where = ast.unparse(statement.target)
        for node in ast.walk(statement):
            names = [name for entry in entries(node) if (name := operator_in(entry)) in TABLE]
            if len(names) >= 3:
                yield where, names


def entries(node: ast.AST) -> list[Any]:
    """The entries of a literal collection, nodes or words."""
    match node:
        case ast.Set() | ast.List() | ast.Tuple():
            return [e.elts[0] if isinstance(e, ast.Tuple) and len(e.elts) > 1 else e for e in node.elts]
        case ast.Dict():
            return [key for key in node.keys if key is not None]
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="split")):
            return text.split()
        case ast.Call(func=ast.Name(id="dict")):
            return [keyword.arg for keyword in node.keywords if keyword.arg is not None]
        case ast.MatchOr():
            return [pattern.value for pattern in node.patterns if isinstance(pattern, ast.MatchValue)]
        case _:
            return []


def operator_in(entry: Any) -> str:
    """The name that an entry has, without the namespace and the overload."""
    if isinstance(entry, ast.Constant) and isinstance(entry.value, str):
        entry = entry.value
    if isinstance(entry, ast.Attribute):
        parts = ast.unparse(entry).split(".")
        return parts[parts.index("aten") + 1] if "aten" in parts[:-1] else ""
    return entry.removeprefix("aten.").partition(".")[0] if isinstance(entry, str) else ""


def test_operators_are_listed_in_one_table() -> None:
    """A second list drifts from the first. What is a fact of an operator is a field of its row, or follows from the
    kind of its rule; `row_of` says it, and a dictionary by rule needs no names."""
    found: list[str] = []
    used: set[str] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(tuple(f"{room}/" for room in OTHER_NAMES)):
            continue
        for where, names in tables(path.read_text(encoding="utf-8")):
            known = {place, f"{place}: {where}"} & {*OWN_TABLES}
            used |= known
            found += [] if known else [f"{place}, {where or 'a statement'}: {', '.join(names)}"]
    assert not found, "operators are listed beside the table:\n" + "\n".join(found)
    assert used == {*OWN_TABLES}, "nothing is listed there"


def test_a_second_table_is_found() -> None:
    assert dict(tables('LINEAR = ("linear", "conv1d", "a word", "mm")')) == {"LINEAR": ["linear", "conv1d", "mm"]}
    assert dict(tables('def f(n):\n    return {"add": 1, "sub": 2, "mul": 3}[n]')) == {"f": ["add", "sub", "mul"]}
    assert [names for _, names in tables('ROWS = (("relu", 1), *((n, 2) for n in ("abs", "exp", "sin")))')] == [
        ["abs", "exp", "sin"]
    ]
    assert not dict(tables('PAIR = {"sub", "add"}; WORDS = ("one", "two", "relu", "abs")'))
    for other in (
        'T = "relu abs exp".split()',
        "T = dict(relu=1, abs=2, exp=3)",
        "T = (aten.relu, torch.ops.aten.abs.default, aten.exp)",
        'T = {"aten.relu.default": 1, "aten.abs": 2, "exp.out": 3}',
        'def T(n):\n    match n:\n        case "relu" | "abs" | "exp":\n            return 1',
    ):
        assert dict(tables(other)) == {"T": ["relu", "abs", "exp"]}, other
    assert not dict(tables('T = (torch.relu, F.relu, x.abs, "a.relu", "relu abs exp")'))


def test_a_second_table_is_found_wherever_it_is_planted() -> None:
    """In every room that looks at operators, at the top of a file and inside of a function."""
    for place in ("solve/lower_bounds.py", "form/patterns.py", "export/to_lp.py", "curvature/walk.py", "split.py"):
        source = (PACKAGE / place).read_text(encoding="utf-8")
        assert not [names for _, names in tables(source)], place
        for planted in ('KINDS = {"relu": 1, "exp": 2, "mul": 3}', 'def f(n):\n    return n in ("relu", "exp", "mul")'):
            assert [names for _, names in tables(f"{source}\n\n{planted}\n")] == [["relu", "exp", "mul"]]

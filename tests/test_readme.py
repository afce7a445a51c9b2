"""The documentation runs: every ```python block, and every command of every ```console block.

The python blocks of one file share a namespace and run in order. Where a ```text block follows, it must show what was
printed, and where output stands below a `$ command`, the command must print it; both as in a doctest, with `...` for
what varies. A command must succeed, unless `$ echo $?` below it shows the exit status it should have.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.processes import HANGING, Forge

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMPARE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NOT_RUN = ("pip", "git")  # these need a network


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    directly_after: bool


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        directly = bool(found) and not text[end : match.start()].strip()
        found.append(Block(match[1], match[2], text.count("\n", 0, match.start()) + 2, directly))
        end = match.end()
    return found


def assert_shown(shown: str, printed: str, where: str) -> None:
    example = doctest.Example("", shown)
    checker = doctest.OutputChecker()
    if not checker.check_output(example.want, printed, COMPARE):
        pytest.fail(
            f"{where} shows something else than is printed:\n{checker.output_difference(example, printed, COMPARE)}"
        )


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, continued lines joined, each with the output shown below it."""
    found: list[tuple[str, str]] = []
    for line in text.replace("\\\n", " ").splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].strip(), ""))
        else:
            assert found, "a console block starts with `$ command`"
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def test_there_is_documentation() -> None:
    assert ROOT / "README.md" in PAGES
    assert any(block.language == "python" for block in blocks(ROOT / "README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType(f"page_{page.stem}")  # which dataclasses look up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    namespace = module.__dict__
    printed = ""
    for block in blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.language == "python":
            output = io.StringIO()
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            with contextlib.redirect_stdout(output):
                exec(code, namespace)
            printed = output.getvalue()
        elif block.language == "text" and block.directly_after:
            assert_shown(block.text, printed, where)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_console_blocks(page: Path, tmp_path: Path, forge: Forge) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "120"}
    for block in blocks(page):
        if block.language != "console":
            continue
        listed = commands(block.text)
        for index, (command, shown) in enumerate(listed):
            where = f"{page.name}, line {block.line}: $ {command}"
            words = shlex.split(command, comments=True)
            program = next(word for word in words if "=" not in word)
            if program == "make":
                missing = {word for word in words[words.index("make") + 1 :] if "=" not in word} - targets()
                assert not missing, f"{where}: the Makefile has no {missing}"
            elif program not in NOT_RUN and command != "echo $?":
                assert program in ("convexnet", "python"), f"{where}: only convexnet and python are run here"
                if program == words[0] == "convexnet":
                    done = forge.run("convexnet.lab.cli:main", folder=tmp_path, argv=words)
                else:
                    limits: dict[str, Any] = {"timeout": HANGING, "check": False}
                    done = subprocess.run(
                        words, cwd=tmp_path, env=environment, capture_output=True, text=True, **limits
                    )
                assert "Traceback (most recent call last)" not in done.stderr, f"{where}\n{done.stderr}"
                after = listed[index + 1] if index + 1 < len(listed) else ("", "")
                expected = int(after[1]) if after[0] == "echo $?" else 0
                assert done.returncode == expected, (
                    f"{where}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
                )
                if shown:
                    assert_shown(shown, done.stdout, where)

"""The processor time of the tests, by room, file and test: `make durations`.

Processor time, because the time on the clock says more about what else the machine does. That of processes which a test
starts is counted with it, also of those that go on after it (see `processes`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOMS = {"src": 10, "tests": 130, "tests/curvature": 100, "tests/export": 45, "tests/lab": 75, "tests/solve": 120}
"""Seconds that each room may take on a quiet machine; together what two cores have in four and a half minutes, less a
minute for types. Shown, and never asserted."""

SHOWN = 25
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def spent() -> float:
    """Seconds of this process and of all that it has started, as far as the system tells."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + alive(os.getpid())


def alive(pid: int) -> float:
    """Seconds of the processes that a process has started and not waited for; 0 where there is no /proc."""
    total = 0.0
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15])) / TICKS + alive(int(child))
        except OSError:  # ended meanwhile
            continue
    return total


def room(test: str) -> str:
    parts = test.partition("::")[0].split("/")
    return "/".join(parts[:2]) if parts[0] == "tests" and len(parts) > 2 else parts[0]


class Durations:
    """Measures in the process that runs a test; adds up in the one that reports."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.tests: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
        report = yield
        now = spent()
        if call.when == "teardown":
            report.user_properties.append(("processor seconds", now - self.begun))
            self.begun = now
        return report

    def pytest_runtest_logstart(self) -> None:
        self.begun = self.begun or spent()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self.tests[report.nodeid] += dict(report.user_properties).get("processor seconds", 0.0)  # type: ignore

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        rooms, files, functions = Counter[str](), Counter[str](), Counter[str]()
        for test, seconds in self.tests.items():
            rooms[room(test)] += seconds
            files[test.partition("::")[0]] += seconds
            functions[test.partition("[")[0]] += seconds
        terminalreporter.section("processor seconds")
        terminalreporter.write_line(f"{sum(rooms.values()):8.1f}  {len(self.tests)} tests")
        for name, seconds in sorted(rooms.items()):
            most = f" of {ROOMS[name]}" if name in ROOMS else ""
            terminalreporter.write_line(f"{seconds:8.1f}{most}  {name}")
        for title, counts in (("files", files), ("tests with all their parameters", functions), ("tests", self.tests)):
            terminalreporter.section(f"slowest {title}", sep="-")
            for name, seconds in counts.most_common(SHOWN):
                terminalreporter.write_line(f"{seconds:8.2f}  {name}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Durations(), "convexnet-durations")

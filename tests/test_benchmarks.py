"""The benchmarks run, on tiny networks where they can, and what they compare with is right."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch

import convexnet as cx
from tests.processes import HANGING

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=HANGING, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_minimise() -> None:
    lines = run("minimise.py", "--smoke", "--limit", "2").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| tilt")]
    assert [row[:5] for row in rows[:3]] == [
        ["tilt", "2", "30", "4", "1e-06"],
        ["tilt", "5", "30", "1", "1e-04"],
        ["tilt", "5", "30", "8", "1e-04"],
    ]
    assert [row[12] for row in rows[:3]] == ["4/4", "1/1", "8/8"]


@pytest.mark.slow
def test_networks() -> None:
    lines = run("networks.py", "--smoke").splitlines()
    (row,) = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ioc-cnn")]
    assert row[-1] == "yes"
    assert float(row[2]) > 0


@pytest.mark.slow
def test_streaming() -> None:
    """It counts every image of a pass itself."""
    lines = run("streaming.py", "--smoke").splitlines()
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| ours", "| ImageFolder"]


@pytest.mark.slow
def test_bundle_entropy() -> None:
    lines = run("bundle_entropy.py", "--smoke", "--rounds", "1").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["slopes", "1", "10", "80"]
    for row in rows[1:]:
        assert row[8] == "4/4"
        assert float(row[4].split(", ")[1]) <= 1e-6


@pytest.mark.slow
def test_energy() -> None:
    lines = run("energy.py", "--smoke").splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [
        f"softplus, {steps} steps, 8 of 8 proved" for steps in (0, 1)
    ]
    assert sum("ratio" in line for line in lines) == 7


@pytest.mark.slow
def test_domains() -> None:
    lines = run("domains.py", "--smoke").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["domain", "simplex", "polyhedron", "ball"]
    for row in rows[1:]:
        assert row[2] == "4/4"
        assert float(row[8]) == 0, "a bound above Clarabel's optimum, or a value below it"


@pytest.mark.slow
def test_poster(tmp_path: Path) -> None:
    run("poster.py", "--smoke", "--record", str(tmp_path / "rows.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {(row["n"], row["batch"]) for row in rows} == {(n, batch) for n in (2, 5) for batch in (1, 4)}
    for row in rows:
        assert row["gap_largest"] >= row["gap_median"] >= -1e-6
        if row["solver"].startswith("minimise") and row["share"] == 1:
            assert row["gap_largest"] <= row["tol"] * (1 + 1e-9)


@pytest.mark.parametrize("family", ["tilt", "random"])
def test_programs_and_bounds(family: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Written out from the weights, they agree with what the library makes of the network, and no bound is too high."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from workload.icnn import EXACT, bound, highs, problem

    net, x, box = problem(family, 4, 3, 20, seed)
    solution = cx.minimise(net, box, given=x, tol=1e-8)
    torch.manual_seed(seed)
    for i, row in enumerate(x):
        found = [highs(net, row, options) for options in EXACT.values()]
        lp = cx.to_lp(net, box, given=row)
        lp.run()
        optimum = lp.getInfo().objective_function_value
        for one in found:
            assert one.value == pytest.approx(optimum, abs=1e-6)
            assert one.bound == pytest.approx(optimum, abs=1e-5)
        assert float(solution.value[i]) == pytest.approx(optimum, abs=1e-6)
        duals = -torch.rand(sum(net.W.shape)) / 10  # any: clipped to what gives a bound
        assert bound(net, row, duals) <= optimum + 1e-9


def test_two_trees_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers of two processes become one table: medians, quartiles, and the error of a case that fails in a tree."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import paired

    times = {"before": iter([1.0, 2.0, 4.0]), "now": iter([1.0, 4.0, 2.0])}
    order: list[str] = []

    @contextlib.contextmanager
    def worker(tree: Path, options: object) -> Generator[Callable[[str], dict[str, object]]]:
        label = "now" if tree == paired.ROOT else "before"

        def run(name: str) -> dict[str, object]:
            order.append(label)
            if name.startswith("falsify"):
                return {"error": "TypeError: gone"} if label == "before" else {"seconds": 1.0}
            return {"seconds": next(times[label])}

        yield run

    monkeypatch.setattr(paired, "worker", worker)
    (tmp_path / "src").mkdir()
    paired.main([str(tmp_path), "--cases", "newton-small,falsify-rare", "--rounds", "3"])
    assert order == [*["before", "now"] * 2, *["now", "before"] * 2, *["before", "now"] * 2]
    shown = capsys.readouterr().out.splitlines()
    assert "| newton-small | 2e+03 | 2e+03 | 1.000 | 0.750-1.500 |" in shown
    assert "| falsify-rare | | | | before: TypeError: gone |" in shown


@pytest.mark.slow
def test_paired(tmp_path: Path) -> None:
    """Every case runs on the sources themselves and on a copy, in processes of their own."""
    (tmp_path / "src").symlink_to(BENCHMARKS.parent / "src")
    lines = run("paired.py", str(tmp_path), "--rounds", "1").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert len(rows) == len(run("paired.py", "--list").split())
    for name, before, now, ratio, _ in rows:
        assert float(before) > 0 < float(now), name
        assert 0.1 < float(ratio) < 10, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regression.py", "transport.py"])
def test_estimators(name: str) -> None:
    rows = [line for line in run(name, "--smoke", "--seeds", "1").splitlines() if line[:3] in ("| 2", "| 5")]
    assert {line.split("|")[2].strip() for line in rows} > {"torch, clipped" if name == "regression.py" else "linear"}


@pytest.mark.slow
def test_control() -> None:
    lines = run("rl.py", "--smoke").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["3, 1", "11, 2"]
    assert [row[4] for row in rows[1:]] == ["4/4", "4/4"]
    assert sum("steps a second" in line for line in lines) == 2

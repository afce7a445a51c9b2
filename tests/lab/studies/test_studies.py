"""Studies, comparisons and the page made of them: what is shortened or not run is never anything else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from convexnet.lab.cli.app import app
from convexnet.lab.models import architectures
from convexnet.lab.models.convex import Convex
from convexnet.lab.models.registry import model_named
from convexnet.lab.reports import plane_pictures
from convexnet.lab.reports.comparison import Line, comparison, interval, shown
from convexnet.lab.reports.papers import TABLE_1
from convexnet.lab.reports.report import collected, write_report
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.lock import claimed
from convexnet.lab.runs.records import FIELDS, VERSION, RecordError, append_record
from convexnet.lab.runs.sweep import sweep
from convexnet.lab.studies import STUDIES, fig2, plane, study_named, table1, table4
from convexnet.lab.studies.study import SIZES, Study
from convexnet.lab.training.recipes import FAMILIES, RECIPES, Recipe, recipe
from convexnet.lab.training.settings import differences
from tests.lab import small

ROOT = Path(__file__).resolve().parents[3]


def row(job: Job, **changes: Any) -> dict[str, Any]:
    """A made-up record of a job, its numbers from its seed."""
    test = 0.8 + 0.01 * job.seed
    return {
        **dict.fromkeys(FIELDS),
        "record": VERSION,
        "key": job.key,
        "study": job.study,
        "model": job.model,
        "dataset": job.dataset,
        "variant": job.variant,
        "recipe": {"name": job.recipe.name},
        "seed": job.seed,
        "full": job.full,
        "epochs": job.recipe.epochs,
        "train_samples": job.train_samples or 60_000,
        "seconds": 1.0,
        "train_accuracy": test + 0.1,
        "test_accuracy": test,
        "gap": 0.1,
        "test_accuracy_at_peak": test,
        "ece": 0.05,
        "certified": job.model.startswith("ioc"),
        "reliability": [[5, 0.4, 0.5], [15, 0.9, 0.8]],
        "curve": [{"epoch": 1.0, "train_accuracy": 0.5, "test_accuracy": 0.4, "validation_accuracy": 0.4}],
        "hardware": {"processor": "P", "cores": 2, "threads": 1, "system": "S"},
        "versions": {"convexnet": "0.1.0"},
        "commit": "abc",
        "date": "2026-01-01",
        "note": "",
        **changes,
    }


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
@pytest.mark.parametrize("size", SIZES)
def test_a_plan(study: Study, size: str) -> None:
    jobs = study.jobs(size)
    assert jobs
    assert {job.study for job in jobs} == {study.name}
    assert {job.seed for job in jobs} == set(range(study.seeds[size])) | {0}
    assert len({job.key for job in study.jobs(size, 1)}) <= len({job.key for job in jobs})
    for job in jobs:
        # Whatever is shorter than the recipe it is named after, or sees fewer images, says so.
        if job.recipe.name in RECIPES and size != "full":
            assert not job.full
        if job.full:
            assert job.train_samples is None
            if job.recipe.name in RECIPES:
                assert job.recipe in FAMILIES[model_named(job.model).family][job.recipe.name]
    with pytest.raises(ValueError, match="at least one seed"):
        study.jobs(size, 0)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_reads_on_its_own(study: Study) -> None:
    file = ROOT / "src" / "convexnet" / "lab" / "studies" / f"{study.name.replace('-', '_')}.py"
    text = file.read_text(encoding="utf-8")
    head = text.partition('"""')[2].partition('"""')[0]
    assert f"convexnet study run {study.name}" in head, "the command that runs it stands in its first lines"
    assert study.source
    assert all(re.fullmatch(r"[ABC]\d+", system) for system in study.systems)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="smoke, two-core, full"):
        study_named("table1").jobs("tiny")


def test_table_1_is_in_table_4() -> None:
    for size in SIZES:
        seeds = range(2)
        assert {job.key for job in table1.plan(size, seeds)} < {job.key for job in table4.plan(size, seeds)}


def test_a_key_is_that_of_the_settings() -> None:
    job = Job("a", "mlp", "mnist", recipe("paper-text", convex=False), 0)
    assert job.key == replace(job, study="b", full=False, variant="v").key
    others = [
        replace(job, seed=1),
        replace(job, dataset="digits"),
        replace(job, noise=1.0),
        replace(job, recipe=replace(job.recipe, batch=1)),
        replace(job, recipe=replace(job.recipe, convex=Convex(method="clip"))),
    ]
    assert len({job.key, *(other.key for other in others)}) == len(others) + 1
    # What a later version adds, with a default that changes nothing, does not change the key.
    assert set(job.settings) == {"model", "dataset", "recipe", "seed"}
    assert differences(job.settings, others[2].settings) == ["noise was None, is 1.0"]


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764), (10, 2.2622)])
def test_intervals_are_students(count: int, quantile: float, seed: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean, half = interval(values.tolist())
    assert mean == pytest.approx(float(values.mean()))
    assert half == pytest.approx(quantile * float(values.std()) / count**0.5, rel=1e-4)


def test_one_seed_has_no_interval() -> None:
    assert interval([0.5]) == (0.5, None)
    assert shown([0.123, None]) == "12.30"


def test_lines_say_what_was_not_run_and_what_is_shortened() -> None:
    how = recipe("paper-text", convex=False)
    full = [Job("s", "mlp", "mnist", how, seed) for seed in range(3)]
    short = [replace(job, full=False, train_samples=100, recipe=replace(how, epochs=2)) for job in full]
    table = comparison(
        "c",
        ("network",),
        [
            Line(["none"], [], TABLE_1["mnist", "mlp"]),
            Line(["short"], [row(job) for job in short]),
            Line(["both"], [row(job) for job in (*short, full[0])]),
        ],
    )
    cells = [dict(zip(table.columns, line, strict=True)) for line in table.rows]
    assert (cells[0]["run"], cells[0]["test"], cells[0]["paper test"]) == ("not run", "–", "99.16")
    assert cells[1]["run"] == "shortened: 2 epochs, 100 images"
    assert cells[1]["test"] == "81.00 ± 2.48"
    # A full run is never averaged with shortened ones.
    assert (cells[2]["run"], cells[2]["test"], cells[2]["seeds"]) == ("1000 epochs, 60,000 images", "80.00", "1")


def test_shortened_runs_of_two_kinds_are_not_averaged() -> None:
    jobs = [Job("s", "mlp", "mnist", Recipe("r", epochs=n), seed, full=False) for seed, n in enumerate((2, 2, 5))]
    assert {one["epochs"] for one in Line(["x"], [row(job) for job in jobs]).counted} == {2}


def test_gaps_of_the_paper_are_recomputed() -> None:
    assert TABLE_1["fashion-mnist", "mlp"].gap == pytest.approx(4.19)
    assert TABLE_1["fashion-mnist", "ioc-mlp"].gap == pytest.approx(-0.17)


# --- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Cells of tables, and what would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "object", "embed")
        self.links += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("report")
    for study in (table4.STUDY, study_named("constraint-ablation"), study_named("appendix-c")):
        for job in study.jobs("two-core"):
            append_record(folder / "results" / f"{study.name}.jsonl", row(job))
    single = Job("train", "mlp", "npz:<b>&.npz", recipe("ours", convex=False), 0)
    append_record(folder / "results" / "single.jsonl", row(single, noise="symmetric 40 %"))
    write_report([folder / "results"], folder / "out" / "page.html", STUDIES)
    return folder / "out"


def test_the_page_is_one_file(written: Path) -> None:
    page = Page((written / "page.html").read_text(encoding="utf-8"))
    assert all(link.startswith(("data:", "#")) for link in page.links)
    text = " ".join(page.words)
    assert "not run" in text
    assert "shortened: 15 epochs, 10,000 images" in text
    assert "82.00 ± 1.96" in text, "five seeds of appendix C"
    assert "81.00 ± 2.48" in text, "three seeds of table 1"
    assert "npz:<b>&.npz, symmetric 40" in text
    assert "no record of fig2, fig3" in text


def test_the_markdown_says_the_same(written: Path) -> None:
    text = (written / "page.md").read_text(encoding="utf-8")
    assert "| Fashion-MNIST | IOC-MLP | 90.41 | 90.58 | −0.17 | 91.00 ± 2.48 | 81.00 ± 2.48 |" in text
    assert "| SVHN | MLP | 91.76 | 86.19 | 5.57 | – | – | – | – | – | – | – | not run |" in text
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert len(pictures) > 5
    assert all((written / name).read_text(encoding="utf-8").startswith("<?xml") for name in pictures)


def test_no_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is not there"):
        collected([tmp_path / "none.jsonl"])
    with pytest.raises(RecordError, match=r"no records in .*convexnet study run"):
        collected([tmp_path])


# --- the commands ----------------------------------------------------------------------------------------------------


def command(*words: str) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_figures_from_the_command_line(tmp_path: Path) -> None:
    places = ("--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"))
    for name in ("fig2", "fig3"):
        done = command("study", "run", name, "--smoke", *places)
        assert done.exit_code == 0, done.output
    again = command("study", "run", "fig3", "--smoke", *places)
    assert "3 of 3 runs had their record already" in again.output
    rows = collected([tmp_path / "results"])
    assert all(set(one) >= FIELDS for one in rows)
    done = command("report", str(tmp_path / "results"), "-o", str(tmp_path / "r.html"))
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "5 epochs, shortened" in text
    assert text.count("<figure>") >= 6

    # The regions that the record keeps are those of the network.
    (first,) = (one for one in rows if one["model"] == "mlp-1")
    job = plane.job_of("fig2", "mlp-1", 0, epochs=5, full=False)
    network = plane.explore(job, small.place(tmp_path / "again")).model
    with torch.no_grad():
        wanted = network.eval()(plane_pictures.grid(fig2.MAP))[:, 0] > 0
    assert torch.equal(fig2.unpacked(first["regions"]).bool(), wanted)


def test_one_network_from_the_command_line(tmp_path: Path) -> None:
    words = ["train", "--dataset", "digits", "--model", "mlp", "--convex", "--epochs", "2", "--train-samples", "100"]
    done = command(*words, "--out", str(tmp_path), "--accelerator", "cpu")
    assert done.exit_code == 0, done.output
    assert "Certified convex" in done.output
    record = json.loads((tmp_path / "record.jsonl").read_text(encoding="utf-8"))
    assert (record["model"], record["epochs"], record["full"]) == ("ioc-mlp", 2, False)
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {
        "checkpoint.pt",
        "log.csv",
        "network.safetensors",
        "record.jsonl",
        "tensorboard",
    }
    trained = tmp_path / "network.safetensors"
    assert f"convexnet certify {trained}" in done.output.replace("\n", "")
    proof = command("certify", str(trained), "--html", str(tmp_path / "proof.html"))
    assert proof.exit_code == 0, proof.output
    assert "network.safetensors is certified convex" in (tmp_path / "proof.html").read_text(encoding="utf-8")
    again = command(*words, "--out", str(tmp_path))
    assert again.exit_code == 2
    assert "finished run" in again.stderr
    again = command(*words, "--out", str(tmp_path), "--resume")
    assert again.exit_code == 0, again.output
    assert "nothing to do" in again.output
    other = command(*words, "--out", str(tmp_path), "--resume", "--seed", "1")
    assert other.exit_code == 2
    assert "seed was 0, is 1" in other.stderr
    assert json.loads((tmp_path / "record.jsonl").read_text(encoding="utf-8")) == record


def test_a_finished_run_is_trained_longer(tmp_path: Path) -> None:
    words = ["train", "--dataset", "digits", "--model", "mlp", "--train-samples", "100", "--recipe", "ours"]
    words += ["--out", str(tmp_path), "--accelerator", "cpu"]
    assert command(*words, "--epochs", "2").exit_code == 0
    first = json.loads((tmp_path / "record.jsonl").read_text(encoding="utf-8"))
    done = command(*words, "--epochs", "4", "--resume")
    assert done.exit_code == 0, done.output
    longer = json.loads((tmp_path / "record.jsonl").read_text(encoding="utf-8"))
    assert (longer["epochs"], longer["continued_from"], longer["full"]) == (4, first["key"], False)
    assert longer["curve"][:2] == first["curve"]
    assert longer["resumed_after"] == [2]
    # It is not the run that would have had four epochs from the beginning, and does not stand for it.
    assert longer["key"] not in (first["key"], Job("train", "mlp", "digits", recipe("ours", convex=False), 0).key)
    page = command("report", str(tmp_path), "-o", str(tmp_path / "r.html"))
    assert page.exit_code == 0, page.output
    text, plain = ((tmp_path / f"r.{ending}").read_text(encoding="utf-8") for ending in ("html", "md"))
    assert "<h1>Runs</h1>" in text
    assert "papers" not in text + plain
    assert "Orange: MLP, ours. At the end: MLP, ours: train" in plain
    again = command(*words, "--epochs", "4", "--resume")
    assert again.exit_code == 0
    assert "nothing to do" in again.output
    fewer = command(*words, "--epochs", "3", "--resume")
    assert fewer.exit_code == 0
    assert "of 4 epochs" in fewer.output


def test_what_a_killed_process_had_half_written_is_deleted(tmp_path: Path) -> None:
    names = (".checkpoint.pt.77.part", ".convexnet-77-abcd.part", "checkpoint.pt", "mine.part")
    for name in names:
        (tmp_path / name).write_text("half", encoding="utf-8")
    with claimed(tmp_path):
        left = {path.name for path in tmp_path.iterdir()}
    assert left & {*names} == {"checkpoint.pt", "mine.part"}


@pytest.mark.parametrize("kind", ["train", "sweep"])
def test_a_folder_in_use_is_refused_or_waited_for(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train", "--dataset", "digits", "--train-samples", "100", "--epochs", "1", "--out", str(tmp_path / "run")]
    if kind == "train":
        with claimed(tmp_path / "run"):
            done = command(*words)
        assert done.exit_code == 2
        assert f"is in use by process {os.getpid()} on " in done.stderr
        assert not (tmp_path / "run" / "record.jsonl").exists()
        return
    jobs = [small.job("mlp", epochs=1, seed=seed) for seed in range(2)]
    held = claimed(tmp_path / "runs" / jobs[0].key)
    held.__enter__()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        """The other process dies: its folder is free."""
        waits.append(seconds)
        held.__exit__(None, None, None)

    monkeypatch.setattr("convexnet.lab.runs.serial.sleep", wait)
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)
    said: list[str] = []
    outcome = sweep(table1.STUDY, jobs, small.place(tmp_path / "runs", say=said.append), tmp_path / "results")
    assert [row["seed"] for row in outcome.rows] == [1, 0]
    assert len(waits) == 1
    assert "is in use by process" in said[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--dataset", "cifar10", "--data-dir", "{nowhere}"], "nowhere"),
        (["train", "--dataset", "cifra10"], "(did you mean 'cifar10'?)"),
        (["train", "--dataset", "digits", "--recipe", "our"], "(did you mean 'ours'?)"),
        (["train", "--dataset", "folder:"], "names no place; write folder:PATH"),
        (["train", "--dataset", "digits", "--noise", "140"], "from 0 to 100"),
        (["train", "--dataset", "digits", "--noise", "0.4"], "write 40 for 40 %"),
        (["train", "--dataset", "digits", "--noise", "nan"], "from 0 to 100"),
        (["train", "--dataset", "digits", "--learning-rate", "-1"], "'--learning-rate': -1 is not a number above 0"),
        (["train", "--dataset", "digits", "--learning-rate", "nan"], "'--learning-rate': nan is not a number above 0"),
        (["train", "--dataset", "digits", "--seed", str(2**64)], "seed"),
        (["train", "--dataset", "digits", "--method", "clip"], "--method applies to convex networks: add --convex"),
        (["train", "--dataset", "digits", "--model", "mpl"], "'mpl' is not one of mlp, mlp-signs, relu-mlp"),
        (["train", "--dataset", "digits", "--augment", "crop-flop"], "(did you mean 'crop-flip'?)"),
        (["train", "--dataset", "digits", "--augment", "flips", "--epochs", "1"], "flips"),
        (["train", "--dataset", "digits", "--train-samples", "99999"], "99999"),
        (["train", "--dataset", "digits", "--accelerator", "tpu"], "is not one of cpu, cuda, auto"),
        (["train", "--dataset", "digits", "--accelerator", "cuda", "--devices", "999"], "not available here"),
        (["train", "--dataset", "digits", "--precision", "31-true", "--epochs", "1"], "31-true"),
        (["study", "run", "tabel4"], "'tabel4' is not one of table1, table4, constraint-ablation, fig2"),
        (["study", "run", "tabel4"], "(did you mean 'table4'?)"),
        (["study", "run", "table1", "--smoke", "--full"], "exclude each other"),
        (["study", "run", "table1", "--only", "seed 99"], "no run of table1 has 'seed 99' in its name"),
        (["report", "{nowhere}"], "is not there"),
    ],
)
def test_wrong_usage_is_a_line(words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*(word.format(nowhere=tmp_path / "nowhere") for word in words))
    assert done.exit_code == 2, done.output
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_one_class_alone_is_refused_and_a_class_without_images_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("gap.npz", images=np.arange(200, dtype=np.uint8).reshape(50, 4), labels=np.arange(50) % 2 * 2)
    words = ("--model", "mlp", "--recipe", "ours", "--epochs", "1", "--measure-every", "9", "--out", "out")
    monkeypatch.setattr(architectures, "HIDDEN", small.HIDDEN)
    done = command("train", "--dataset", "npz:gap.npz", *words)
    assert done.exit_code == 0, done.output
    assert "Note: no test part was given" in done.output
    assert "no training image has the label 1" in " ".join(done.output.split())
    np.savez("one.npz", images=np.arange(200, dtype=np.uint8).reshape(50, 4), labels=np.zeros(50, int))
    done = command("train", "--dataset", "npz:one.npz", *words[:-1], "other")
    assert done.exit_code == 2
    assert "nothing can be learnt of one class" in done.stderr


def test_missing_data_are_not_run(tmp_path: Path) -> None:
    places = ("--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"), "--data-dir", str(tmp_path))
    done = command("study", "run", "table1", "--seeds", "1", *places)
    assert done.exit_code == 1
    assert "MNIST" in done.output
    # One reason is said once, and no file is named that is not there.
    assert done.output.count("Fashion-MNIST is not in") + done.output.count("FashionMNIST is not in") == 1
    assert ", and 3 more: MNIST is not in" in " ".join(done.output.split())
    assert "Records:" not in done.output
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").iterdir())


def test_the_list() -> None:
    done = command("study", "list")
    assert done.exit_code == 0
    assert all(study.name in done.output for study in STUDIES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("noise", "table3", "fig1", "human-noise", "fig6", "recurrent", "polyhedral", "table2", "table5"),
        *("olivetti", "imputation", "exemplars"),
        *("report-table1", "report-table2", "report-table3", "report-imagenet", "report-head"),
    ],
)
def test_smoke_of_the_rest(name: str, tmp_path: Path) -> None:
    places = ("--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"))
    done = command("study", "run", name, "--smoke", *places)
    assert done.exit_code == 0, done.output
    rows = collected([tmp_path / "results"])
    assert {one["full"] for one in rows} == {False}
    assert {one["study"] for one in rows} == {name}
    again = command("study", "run", name, "--smoke", *places)
    assert f"{len(rows)} of {len(rows)} runs had their record already" in again.output
    done = command("report", str(tmp_path / "results"), "-o", str(tmp_path / "r.html"))
    assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1", "table4", "constraint-ablation", "appendix-c"])
def test_smoke(name: str, tmp_path: Path) -> None:
    done = command(
        *("study", "run", name, "--smoke", "--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"))
    )
    assert done.exit_code == 0, done.output
    rows = collected([tmp_path / "results"])
    assert {one["full"] for one in rows} == {False}
    convex = [one for one in rows if one["model"] != "mlp" and not one["recipe"]["convex"]["free_gamma"]]
    assert convex
    assert all(one["certified"] for one in convex)
    assert not any(one["certified"] for one in rows if one["model"] == "mlp")

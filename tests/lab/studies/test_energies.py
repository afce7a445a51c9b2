"""The studies of energies: killed and resumed to the same bits, and what their records and tables say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import convexnet as cx
from convexnet.energy import training
from convexnet.lab.data import DataError
from convexnet.lab.runs.jobs import Job
from convexnet.lab.runs.records import COMMON
from convexnet.lab.studies import bibtex, many_labels, mnist_icnn, synthetic_icnn
from convexnet.lab.studies.study import Study
from tests.lab import small
from tests.lab.killing import killed_and_resumed


def jobs_of(study: Study, **wanted: str) -> list[Job]:
    found = study.jobs("smoke")
    return [job for job in found if all(getattr(job, name) == value for name, value in wanted.items())]


def killed(study: Study, job: Job, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The record of a run that was killed after its first epoch; it equals that of one that was not."""
    found = killed_and_resumed(study.run, job, folder, (monkeypatch, training))
    assert set(found) > COMMON - {"certified"}
    return found


def test_the_networks_of_the_toys_are_those_of_the_source() -> None:
    assert {job.recipe.hidden for job in synthetic_icnn.plan("full", range(1))} == {(200, 200)}


@pytest.mark.slow
def test_toys_in_the_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = (job for job in jobs_of(synthetic_icnn.STUDY, model="picnn") if job.recipe.name == "max-margin")
    row = killed(synthetic_icnn.STUDY, replace(job, recipe=replace(job.recipe, hidden=(4,))), tmp_path, monkeypatch)
    assert row["certified"] is True
    assert len(synthetic_icnn.unpacked(str(row["regions"]))) == synthetic_icnn.MAP**2
    (section,) = synthetic_icnn.sections([row])
    cells = [cells for cells in section.tables[0].rows if cells[0] == "PICNN, max-margin"]
    assert cells[0][-3:] == ["1 of 1", "1", "2 epochs, shortened"]
    assert len(section.panels) == 1
    for toy in synthetic_icnn.TOYS:
        part = synthetic_icnn.points(toy, 100, 0)
        assert part.labels.sum() == 50
        assert bool((part.images.mean(0).abs() < 0.4).all())
    with pytest.raises(ValueError, match="there is no toy 'spiral'"):
        synthetic_icnn.points("spiral", 10, 0)


def test_digits_by_one_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs_of(mnist_icnn.STUDY, model="energy-ficnn")
    row = killed(mnist_icnn.STUDY, replace(job, recipe=replace(job.recipe, hidden=(16,))), tmp_path, monkeypatch)
    assert row["certified"] is True
    curve = row["curve"]
    assert isinstance(curve, list)
    assert {"test_error", "validation", "converged"} < set(curve[0])
    assert row["test_error"] == pytest.approx(curve[-1]["test_error"], abs=1e-3)
    best = min(point["validation"] for point in curve)
    assert row["validation_error"] == pytest.approx(best, abs=1e-3)
    (section,) = mnist_icnn.sections([row])
    assert [cells[-1] for cells in section.tables[0].rows] == ["shortened: 2 epochs, 256 images", "not run"]


def test_the_network_of_the_poster_and_one_of_its_size() -> None:
    f = cx.nn.FICNN(784 + 10, hidden=mnist_icnn.ENERGY.hidden, constraint="clip")
    assert sum(parameter.numel() for parameter in f.parameters()) == 1_315_395
    sizes = (784, *mnist_icnn.PLAIN.hidden, 10)
    plain = sum(a * b + b for a, b in pairwise(sizes))
    assert abs(plain - 1_315_395) < 100
    assert [job.recipe.epochs for job in mnist_icnn.plan("full", range(1))] == [60, 60]


def test_many_labels_and_their_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (member, average) = (jobs_of(bibtex.STUDY, model=f"{name}picnn-argmin")[0] for name in ("", "ensemble-"))
    how = replace(member.recipe, hidden=(4,), epochs=2)
    member = replace(member, recipe=how)
    row = killed(bibtex.STUDY, member, tmp_path, monkeypatch)
    assert (row["certified"], row["task"]) == (True, "labels")
    average = replace(average, recipe=how, needs=(member.key,))
    place = small.place(tmp_path / "average", needs={member.key: tmp_path / "whole"})
    mean = bibtex.run(average, place, lambda job, point: None)
    assert mean["members"] == 1
    for name in ("threshold", "test_f1", "test_macro_f1", "test_f1_chosen", "validation_f1"):
        assert mean[name] == pytest.approx(row[name]), "the average of one is itself"
    (section,) = bibtex.sections([row, mean])
    lines = {cells[0]: cells for cells in section.tables[0].rows}
    assert lines["PICNN, bundle entropy"][-1] == "2 epochs, shortened"
    assert "PICNN, bundle entropy, average of 1" in lines
    assert lines["PICNN, unrolled"][-1] == "not run"


def test_the_feed_forward_network_of_many_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = jobs_of(bibtex.STUDY, model="mlp")
    row = killed(bibtex.STUDY, replace(job, recipe=replace(job.recipe, epochs=3)), tmp_path, monkeypatch)
    assert row["certified"] is False
    curve = row["curve"]
    assert isinstance(curve, list)
    assert row["validation_f1"] == pytest.approx(-100 * min(point["validation"] for point in curve), abs=1e-3)


def test_plans_of_bibtex() -> None:
    full = bibtex.plan("full", range(5))
    members = [job for job in full if job.model == "picnn-argmin"]
    (average,) = (job for job in full if job.model == "ensemble-picnn-argmin")
    assert average.needs == tuple(job.key for job in members)
    assert not [job for job in bibtex.plan("full", range(3)) if job.needs], "averages are of five"
    assert len({job.key for job in full}) == len(full)
    with pytest.raises(DataError, match="--data-dir"):
        bibtex.run(members[0], small.place(Path("nowhere")), lambda job, point: None)


def test_rarity_weighs_words() -> None:
    data = bibtex.data_of("labels-of-chance", None)
    train, held, _ = many_labels.features(data, bibtex.PICNN)
    lengths = train.norm(dim=1)
    assert torch.allclose(lengths[lengths > 0], torch.tensor(20**0.5 / 6), atol=1e-5)
    assert torch.equal(held > 0, (data.validation[0] > 0) & (data.train[0].mean(0) < 1))
    assert torch.equal(many_labels.features(data, replace(bibtex.PICNN, normalise="none"))[0], data.train[0])

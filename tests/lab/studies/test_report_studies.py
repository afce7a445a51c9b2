"""The studies of the report: what is compared with what, and what their sections say of records."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import convexnet as cx
from convexnet.lab.models.convex import Convex
from convexnet.lab.models.registry import build
from convexnet.lab.reports import study_pictures
from convexnet.lab.reports.page import Section
from convexnet.lab.reports.pictures import Picture
from convexnet.lab.studies import report_head, report_imagenet, study_named
from convexnet.lab.studies.queue import QUEUE, Pace
from convexnet.lab.studies.study import SIZES
from tests.lab.studies.test_studies import row

NAMES = ("report-table1", "report-table2", "report-table3", "report-imagenet", "report-head")


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn by other tests."""

    def undrawn(title: str, alt: str, draw: Any, size: Any = None) -> Picture:
        return Picture(title, alt, "", "", 1, 1)

    for module in (study_pictures, report_imagenet):
        monkeypatch.setattr(module, "picture", undrawn)


def shown(name: str, **changes: Any) -> list[Section]:
    """The sections of made-up records of everything that a study plans."""
    study = study_named(name)
    jobs = [job for size in SIZES for job in study.jobs(size, 1)] + study.longer(range(1))
    rows = [row(job, **changes) for job in {job.key: job for job in jobs}.values()]
    return study.sections(study.rows(rows))


@pytest.mark.parametrize("name", NAMES)
def test_every_record_is_in_a_line(name: str) -> None:
    """Cells fit their columns, and a line for every kind of record that is full, and no "not run" beside it."""
    for section in shown(name):
        assert section.panels
        for table in section.tables:
            assert {len(cells) for cells in table.rows} == {len(table.columns)}
            assert not any("not run" in cells for cells in table.rows)
            assert len({tuple(cells[: table.text]) for cells in table.rows}) == len(table.rows)


@pytest.mark.parametrize("name", NAMES)
def test_without_records_lines_say_so(name: str) -> None:
    (section, *_) = study_named(name).sections([])
    assert all("not run" in cells for table in section.tables for cells in table.rows)
    assert not section.panels


@pytest.mark.parametrize(("name", "model"), [("report-table1", "Mixer"), ("report-table2", "CycleMLP-B1")])
def test_the_reports_network_is_said_not_to_be_convex(name: str, model: str) -> None:
    (section,) = shown(name, breaks=["blocks.0.norm1", "layer_norm", "it subtracts a mean"])
    assert f"Not convex by its certificate: the report’s IOC-{model} (not convex), at blocks.0.norm1" in section.text
    assert "Not convex" not in shown(name)[0].text


def test_a_head_is_recorded_apart_from_its_network() -> None:
    (section,) = shown("report-head", certified=False, certified_parts={"head": True})
    cells = dict(zip(section.tables[0].columns, section.tables[0].rows[1], strict=True))
    assert cells["network"] == "head alone, non-negative"
    assert (cells["convex in the image"], cells["head convex in its features"]) == ("0 of 1", "1 of 1")
    kinds = {name: how.convex.free_head for name, (_, how) in report_head.NETWORKS.items()}
    assert not kinds["head alone, non-negative"], "a free one would constrain nothing"


def test_starts_differ_in_nothing_else() -> None:
    jobs = [job for job in report_imagenet.tiny_starts(range(1)) if job.model == "ioc-densenet-121"]
    assert len(jobs) == 3
    same = {replace(job, recipe=replace(job.recipe, name="", convex=Convex())).key for job in jobs}
    assert len(same) == 1
    assert {job.recipe.convex.init for job in jobs} == {None, "lognormal", "identity"}
    assert len({replace(job.recipe.convex, init=None) for job in jobs}) == 1
    assert all(job.streamed and job.full for job in jobs)


@pytest.mark.slow
def test_half_of_signed_weights_are_as_good_as_gone() -> None:
    """What the study is about: exp(w - 5) is at most 0.0067 for w < 0, and is what half of ordinary weights become."""
    shares: dict[str, float] = {}
    for name in ("signed, overwritten", "log-normal"):
        how = report_imagenet.start(name, "ioc-densenet-16")
        network = build("ioc-densenet-16", (1, 8, 8), 4, how, 0)
        kernels = [p for p in cx.constrain(network, torch.zeros(2, 1, 8, 8)).tensors() if p.ndim > 1]
        values = torch.cat([kernel.detach().flatten() for kernel in kernels])
        assert float(values.min()) >= 0
        gone = (values <= math.exp(-5)) & (values >= math.exp(-6))
        shares[name] = float(gone.double().mean())
    assert shares["signed, overwritten"] == pytest.approx(0.5, abs=0.05)
    assert shares["log-normal"] < 0.2


def test_the_queue_knows_how_long_they_take() -> None:
    """From measured steps, until there are records."""
    for entry in QUEUE:
        if entry.study in NAMES:
            for job in entry.jobs():
                hours, basis = Pace([]).hours(job)
                assert basis == "a measured step"
                assert 0.02 < hours < 3

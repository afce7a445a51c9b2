"""The shortened demo from start to end, once for all tests: its page, its records, its words."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from convexnet.lab.cli import show_demo
from convexnet.lab.cli.app import app
from convexnet.lab.data import crescents
from convexnet.lab.models.registry import build
from convexnet.lab.runs.records import read_records, write_records
from convexnet.lab.studies import plane
from convexnet.lab.training.epoch import predict
from tests.lab import small


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """With two epochs: what is looked at is the page and the records, not how good the networks are."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(show_demo, "QUICK", 2)
        result = CliRunner().invoke(app, ["demo", "--quick", "--seed", "5", "--threads", "1", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result.output


@pytest.fixture(scope="module")
def rows(finished: tuple[Path, str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (finished[0] / "metrics.json").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def page(finished: tuple[Path, str]) -> str:
    return (finished[0] / "report.html").read_text(encoding="utf-8")


def test_nothing_else_is_left_in_the_folder(finished: tuple[Path, str]) -> None:
    assert sorted(path.name for path in finished[0].iterdir()) == ["metrics.json", "report.html"]


def test_the_page_loads_nothing(page: str) -> None:
    assert len(page) < 3_000_000
    loading = {"src", "srcset", "href", "data", "poster", "action", "xlink:href"}
    for tag, attributes in Page(page).tags:
        assert tag not in {"script", "iframe", "object", "embed"}
        for name, value in attributes.items():
            if name in loading and value is not None:
                assert value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    assert "@import" not in page
    assert "url(" not in page


def test_every_picture_has_words_and_a_dark_twin(page: str) -> None:
    tags = Page(page).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 15
    assert all(len(image["alt"] or "") > 30 for image in images)
    assert len({image["alt"] for image in images}) == len(images)
    dark = [attributes for tag, attributes in tags if tag == "source"]
    assert len(dark) == len(images)
    assert all(source["media"] == "(prefers-color-scheme: dark)" for source in dark)
    assert not {source["srcset"] for source in dark} & {image["src"] for image in images}


def test_headings_are_in_order(page: str) -> None:
    levels = [int(tag[1]) for tag, _ in Page(page).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_one_row_for_every_network(finished: tuple[Path, str], rows: list[dict[str, Any]]) -> None:
    digits = [row for row in rows if row["study"] == "demo"]
    models = ["mlp", "ioc-mlp", "mlp-signs", "ioc-mlp", "ioc-shallow"]
    assert [(row["model"], row["noise"]) for row in digits] == [
        *((model, "") for model in models),
        *((model, "symmetric-excluding 40 %") for model in [*models, "ioc-mlp"]),
    ]
    assert [row["variant"] for row in digits[:5]] == ["NN", "IOC", "NN, our recipe", "ours", "one layer"]
    assert len({row["epochs"] for row in digits}) == 1
    assert len([row for row in rows if row["study"] == "demo-plane"]) == 3
    assert len({row["key"] for row in rows}) == len(rows)
    # They are records like all others, and a report can be made of them.
    assert read_records(finished[0] / "metrics.json") == rows
    for row in rows:
        assert row["seed"] == 5
        assert row["full"] is False
        assert row["seconds"] > 0
        assert row["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert row["hardware"]["threads"] == 1
        assert "commit" in row
        assert 0 <= row["test_accuracy"] <= 1
    for row in digits:
        assert row["gap"] == pytest.approx(row["train_accuracy"] - row["test_accuracy"])


def test_convex_networks_are_proved_and_ordinary_ones_are_not(rows: list[dict[str, Any]]) -> None:
    assert all(row["certified"] is row["model"].startswith("ioc") for row in rows)


def test_the_page_and_the_terminal_show_the_recorded_numbers(
    finished: tuple[Path, str], page: str, rows: list[dict[str, Any]]
) -> None:
    words = " ".join(Page(page).words).replace("\u00a0", " ")
    for row in rows:
        assert f"{100 * row['test_accuracy']:.1f} %" in words
        if row["study"] == "demo":
            assert f"{100 * row['test_accuracy']:.1f} %" in finished[1]
            assert f"{row['ece']:.3f}" in words
    assert "Shortened run" in words
    assert "727 (60.0 %) are true" in words


def test_both_certificates_are_on_the_page_and_the_terminal(finished: tuple[Path, str], page: str) -> None:
    blocks = re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert len(blocks) == 7
    assert "linear" in blocks[0]
    assert "The ordinary network, trained on 40 % wrong labels" in finished[1]
    assert "The convex network, trained on 40 % wrong labels" in finished[1]
    assert "Our network, trained on 40 % wrong labels" in finished[1]


def test_it_says_why_a_network_resists_and_what_works(finished: tuple[Path, str], page: str) -> None:
    words = " ".join(Page(page).words).replace("\u00a0", " ")
    for text in (words, finished[1]):
        assert "Why it resists" in text
        assert "One hidden layer, which is convex" in " ".join(text.split())


def test_one_seed_gives_one_result() -> None:
    toy = crescents(64, seed=1)
    how = replace(plane.RECIPE, hidden=(8, 8))

    def train(seed: int) -> torch.Tensor:
        model = build("mlp", (2,), 2, how, seed)
        assert small.fitted(model, toy, convex=False, seed=seed, epochs=3, batch=16).epoch == 3
        return predict(model, toy.inputs)

    assert torch.equal(train(3), train(3))
    assert not torch.equal(train(3), train(4))


def test_training_keeps_the_convex_network_convex() -> None:
    toy = crescents(64, seed=1)
    model = build("ioc-mlp", (2,), 1, replace(plane.RECIPE, hidden=(8, 8)), 0)
    held = {"layers.linear2.weight", "layers.norm2.weight", "layers.head.weight"}
    small.fitted(model, toy, convex=True, epochs=2, batch=16, learning_rate=0.1)
    later = [p for name, p in model.named_parameters() if name in held]
    assert len(later) == 3
    assert all(float(parameter.detach().min()) >= 0 for parameter in later)
    # The first layer, and its BatchNorm, stay free.
    assert float(model.get_parameter("layers.linear1.weight").detach().min()) < 0


def test_records_refuse_what_is_not_json(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    write_records(target, [{"a": 1}])
    with pytest.raises(ValueError, match="JSON"):
        write_records(target, [{"a": float("nan")}])
    assert target.read_text(encoding="utf-8") == '{"a": 1}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]

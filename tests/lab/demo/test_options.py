"""The demo's options: every one runs, is recorded, and is told as it is."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from typer.testing import CliRunner

import convexnet as cx
from convexnet.choices import INITS
from convexnet.constraints.sets import METHODS
from convexnet.lab import data
from convexnet.lab.cli import show_demo as present
from convexnet.lab.cli.app import app
from convexnet.lab.data import prepared, scaled
from convexnet.lab.demo import contest as demo
from convexnet.lab.demo import descriptions, narrative
from convexnet.lab.demo.contest import Run
from convexnet.lab.models.convex import Convex, without_scales
from convexnet.lab.models.first_step import WHITENINGS, normaliser, whitening
from convexnet.lab.models.registry import build
from convexnet.lab.reports import pictures
from convexnet.lab.runs import run as runs
from convexnet.lab.runs.metrics import accuracy
from convexnet.lab.runs.place import Place
from convexnet.lab.studies import plane
from convexnet.lab.training.checkpoints import epoch_seed
from convexnet.lab.training.epoch import predict
from tests.drawing import some
from tests.lab import small

TINY = replace(demo.RECIPE, epochs=2, batch=64, hidden=(16, 16, 16))


def few(*arguments: Any, **options: Any) -> data.DataSet:
    """A tenth of the digits."""
    whole = data.load(*arguments, **options)
    parts = {name: getattr(whole, name) for name in ("train", "validation", "test")}
    tenth = {name: part.rows(torch.arange(0, len(part), 10)) for name, part in parts.items()}
    return replace(whole, **tenth)


@pytest.fixture(scope="module")
def digits() -> data.DataSet:
    """A tenth of the digits, their pixels as vectors, centred and scaled."""
    whole = few("digits")
    step = normaliser(whole.train, "mean-std")
    parts = {name: prepared(getattr(whole, name), step) for name in ("train", "validation", "test")}
    flat = {name: data.Split(part.images.flatten(1), part.labels) for name, part in parts.items()}
    return replace(whole, **flat)


@pytest.fixture(scope="module")
def cheap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Everything the command does, with few images, one epoch, empty pictures and one toy for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        toy = plane.explore_plane(0, Place(tmp_path_factory.mktemp("plane")), epochs=1)
        patch.setattr(present, "QUICK", 1)
        patch.setattr(runs, "load", few)
        # Networks that no option changes are trained once for all tests.
        trained, record = demo.trained, demo.record
        known: dict[str, Any] = {}
        rows: dict[str, Any] = {}

        def once(job: Any, *arguments: Any) -> Any:
            known[job.key] = known.get(job.key) or trained(job, *arguments)
            return known[job.key]

        def recorded(found: Any) -> Any:
            rows[found.job.key] = rows.get(found.job.key) or record(found)
            return rows[found.job.key]

        patch.setattr(demo, "trained", once)
        patch.setattr(demo, "record", recorded)
        patch.setattr(plane, "explore_plane", lambda *_, **__: toy)
        patch.setattr(pictures, "_render", lambda *_: "data:,")
        yield


# --- the command -----------------------------------------------------------------------------------------------------

NOTHING: dict[str, Any] = asdict(Convex())

# The words of the command line, what they change in the record, what the terminal says, and what the page says. Every
# value of every option is in one row or another.
OPTIONS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "": (
        {},
        "The convex network: method exponentiate.",
        ("They have the same size and see", "its first layer are overwritten by exp(w − 5) where they are negative"),
    ),
    "--free-gamma": (
        {"free_gamma": True},
        "The constrained network: method exponentiate, BatchNorm's scales free, so that nothing keeps it convex.",
        ("Can a constrained network be", "nothing keeps it convex in its input", "BatchNorm’s scales left free"),
    ),
    "--method clip --widen-first 2": (
        {"method": "clip", "widen_first": 2.0},
        "method clip, first layer ×2.",
        ("set to 0 where they are negative", "512 units in the convex network and 256 in the other"),
    ),
    "--method absolute --init paper --whiten standard": (
        {"method": "absolute", "init": "paper", "normalise": "standard"},
        "method absolute, start paper, inputs whitened (standard, ε 0.1).",
        ("change their sign where", "Glorot’s uniform distribution", "(x − mean) / √(variance + ε)", "ε = 0.1"),
    ),
    "--method shift --init lognormal --free-head": (
        {"method": "shift", "init": "lognormal", "free_head": True},
        "method shift, start lognormal, free head.",
        ("raised, tensor by tensor", "log-normal", "no weight between its first layer and its head may be negative"),
    ),
    "--method exp --init identity --decay 0.01": (
        {"method": "exp", "init": "identity"},
        "method exp, start identity, learning rate falling to 10.0 % (NN: 1.0 %).",
        ("computed as exp(v) from free", "close to the identity", "to 1.0 % of that for the ordinary network"),
    ),
    "--method softplus --widen-first 1.5 --init identity --free-head --free-gamma --whiten zca --decay 0.25": (
        {
            "method": "softplus", "widen_first": 1.5, "init": "identity", "free_head": True,
            "free_gamma": True, "normalise": "zca",
        },
        "The constrained network: method softplus, first layer ×1.5, start identity, free head, inputs whitened (zca",
        ("log(1 + exp(v))", "384 units in the constrained network", "ZCA", "the head’s are free, and it subtracts"),
    ),
}  # fmt: skip


def without_ours(text: str) -> str:
    """What is said of the paper's networks alone."""
    text = re.sub(r"Our recipe\b.*?(?=Confidence\b|Selection\b)", "", text)
    text = re.sub(r"Our network.*?(?=With 40 % wrong labels|$)", "", text)
    return (
        text.replace("the convex network in our recipe", "")
        .replace("convex (ours)", "")
        .replace("ours is the convex network", "")
    )


def less_often(words: str) -> Any:
    """Rows of one method each, whose page differs by few words, are run in `make slow`; see also the tests of each
    method, start and normalisation."""
    once = words.startswith(("--method clip", "--method absolute", "--method shift", "--method exp "))
    return pytest.param(words, marks=pytest.mark.slow) if once else words


@pytest.mark.parametrize("words", [less_often(words) for words in OPTIONS])
def test_every_option_runs_is_recorded_and_is_told(words: str, cheap: None, tmp_path: Path) -> None:
    changed, said, on_page = OPTIONS[words]
    result = CliRunner().invoke(app, ["demo", "--quick", "--out", str(tmp_path), *words.split()])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text(encoding="utf-8").splitlines()]
    names = ("NN", "IOC", "ours", "one layer")
    ordinary, convex, ours, shallow = ([row for row in rows if row["variant"].startswith(name)] for name in names)

    free = "--free-gamma" in words
    decay = float(words.rpartition("--decay ")[2]) if "--decay" in words else 1.0
    for row in convex:
        assert row["recipe"]["normalise"] == changed.get("normalise", "mean-std")
        assert row["recipe"]["convex"] == NOTHING | {name: changed[name] for name in changed if name != "normalise"}
        assert row["recipe"]["decay"] == pytest.approx(decay**0.5)
        assert row["certified"] is not free
        assert row["tier"] == (None if free else "T1" if "--free-head" in words else "T2")
    for row in ours + shallow:  # whatever is asked for the paper's
        assert (row["certified"], row["tier"], row["recipe"]["name"]) == (True, "T1", "ours")
    for row in ordinary:
        assert row["recipe"]["convex"] == NOTHING
        assert row["recipe"]["decay"] == (decay if row["variant"] == "NN" else 1.0)
        assert row["certified"] is row["convex_at_these_weights"] is False

    terminal = " ".join(result.output.split())
    assert said in terminal
    page = re.sub(r"<[^>]*>", " ", (tmp_path / "report.html").read_text(encoding="utf-8"))
    page = " ".join(page.split())
    for part in on_page:
        assert part in page
    # The toy's networks are convex whatever the options say; the rest of the page is about the digits.
    told, _, rest = page.partition("What a convex network can draw")
    told += rest.partition("The certificates")[2].partition("The networks in the plane")[0]
    told, terminal = (without_ours(text) for text in (told, terminal))
    for text in (told, terminal):
        assert ("NOT CERTIFIED: BatchNorm’s scales were left free" in text) is free
        assert (re.search(r"\bconvex network\b(?!\.)|\(convex\)|certified convex", text) is None) is free
        assert ("constrained" in text.replace("constrained weights", "")) is free
    assert ("exp(w − 5)" in page) is ("paper" in words or "--method" not in words)
    assert ("They have the same size and see" in page) is ("--widen-first" not in words)
    repeat = f"convexnet demo --seed 0 {words} --quick".replace("  ", " ")
    assert f"Repeat it with {repeat} ." in page


def test_no_value_of_an_option_is_left_out() -> None:
    for option, values in (("--method", METHODS), ("--init", INITS), ("--whiten", WHITENINGS)):
        named = {words.split(f"{option} ")[1].split()[0] for words in OPTIONS if option in words}
        assert named | ({"exponentiate"} if option == "--method" else set()) == set(values)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--method cilp", "not one of exponentiate, clip, absolute, shift, softplus, exp (did you mean 'clip'?)."),
        ("--init zero", "'--init': 'zero' is not one of paper, lognormal, identity."),
        ("--whiten pca", "'--whiten': 'pca' is not one of standard, zca (did you mean 'zca'?)."),
        ("--widen-first 1", "'--widen-first': 1 is not above 1"),
        ("--widen-first nan", "'--widen-first': nan is not above 1"),
        ("--widen-first inf", "'--widen-first': inf is not above 1"),
        ("--widen-first wide", "'--widen-first'"),
        ("--decay 0", "'--decay': 0 is not above 0"),
        ("--decay 1.5", "'--decay': 1.5 is not above 0 and at most 1"),
        ("--decay nan", "'--decay': nan is not above 0"),
    ],
)
def test_bad_values_are_refused_before_anything_is_done(words: str, told: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "none"), *words.split()])
    assert result.exit_code == 2
    assert told in result.stderr
    assert not (tmp_path / "none").exists()


HOW = st.builds(
    Convex,
    method=st.sampled_from(sorted(METHODS)),
    widen_first=st.none() | st.sampled_from([1.5, 2.0, 3.0]),
    init=st.none() | st.sampled_from(INITS),
    free_head=st.booleans(),
    free_gamma=st.booleans(),
    whiten=st.none() | st.sampled_from(WHITENINGS),
)


@given(how=HOW, decay=st.sampled_from([1.0, 0.5, 0.01]), seed=st.integers(0, 99), full=st.booleans())
@settings(max_examples=30)
def test_the_command_on_the_page_asks_for_the_same_recipe(how: Convex, decay: float, seed: int, full: bool) -> None:
    recipe = demo.asked(how, decay)
    asked: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(present, "run_demo", lambda _, **options: asked.append(options))
        words = shlex.split(descriptions.command(recipe, seed, full))
        result = CliRunner().invoke(app, [*words[1:], "--out", "."])
    assert result.exit_code == 0, result.output
    assert asked == [{"seed": seed, "quick": not full, "recipe": recipe}]


# --- the default is what it was --------------------------------------------------------------------------------------


def test_the_default_is_the_network_written_out_by_hand(digits: data.DataSet) -> None:
    torch.manual_seed(3)
    by_hand = nn.Sequential(
        nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ELU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ELU(),
        nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ELU(), nn.Linear(16, 10),
    )  # fmt: skip
    # The method is not continuous at 0: other roundings of the same step would bring other weights.
    optimiser = torch.optim.AdamW(by_hand.parameters(), lr=1e-2, weight_decay=0.0, fused=True)

    def exponentiate() -> None:
        with torch.no_grad():
            for index in (3, 4, 6, 7, 9):
                weight: Any = by_hand[index].weight
                weight.copy_(torch.where(weight < 0, torch.exp(weight - 5), weight))

    exponentiate()
    for epoch in (1, 2):
        order = torch.Generator().manual_seed(epoch_seed(3, epoch, "order"))
        for rows in torch.randperm(len(digits.train), generator=order).split(64):
            if len(rows) < 2:
                continue
            optimiser.zero_grad()
            functional.cross_entropy(by_hand(digits.train.inputs[rows]), digits.train.labels[rows]).backward()
            optimiser.step()
            exponentiate()

    def made(how: Convex) -> Tensor:
        model = build("ioc-mlp", (64,), 10, replace(TINY, convex=how), 3)
        small.fitted(model, digits.train, convex=True, seed=3, epochs=2)
        return predict(model, digits.test.inputs)

    expected = predict(by_hand, digits.test.inputs)
    torch.testing.assert_close(made(Convex()), expected)
    assert (made(Convex(method="clip")) - expected).abs().max() > 0.1


def test_making_a_network_warns_of_nothing_and_leaves_the_random_state(digits: data.DataSet) -> None:
    before, how = torch.get_rng_state(), Convex(widen_first=2.0, init="lognormal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (build("ioc-mlp", (64,), 10, replace(TINY, hidden=(8, 8), convex=how), 1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    # The units that were added are not copies of the old ones.
    weight = first.get_parameter("layers.linear1.weight")
    assert len(weight) == 16
    assert len(torch.unique(weight.detach(), dim=0)) == 16


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_with_the_method_of_the_conversion(method: str, digits: data.DataSet) -> None:
    model = build("ioc-mlp", (64,), 10, replace(TINY, hidden=(8, 8), convex=Convex(method=method)), 0)
    small.fitted(model, digits.train, convex=True)
    assert type(cx.constrain(model, digits.train.inputs[:2]).method) is METHODS[method]
    assert cx.certify(model, digits.train.inputs[:2]).convex


# --- free scales -----------------------------------------------------------------------------------------------------


def contest(folder: Path, how: Convex, learning_rate: float) -> Run:
    """The convex network after two epochs."""
    contestants = demo.contestants(0.0, replace(TINY, learning_rate=learning_rate, convex=how), seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load", few)
        return demo.compete(contestants[1:2], Place(folder))[0]


def least(model: nn.Module, layer: str) -> float:
    """The smallest weight of a layer, computed or not."""
    return float(cast(Any, model.get_submodule(f"network.layers.{layer}")).weight.detach().min())


@pytest.mark.parametrize("method", ["softplus", pytest.param("exponentiate", marks=pytest.mark.slow)])
def test_free_scales_that_turn_negative_are_counted_and_end_the_proof(method: str, tmp_path: Path) -> None:
    free = contest(tmp_path, Convex(method=method, free_gamma=True), learning_rate=0.5)
    later = torch.cat([free.model.get_parameter(f"network.layers.norm{layer}.weight").detach() for layer in (2, 3)])
    negative = int((later < 0).sum())
    assert negative > 0
    assert free.scales == (negative, 32)
    assert not free.proved
    assert free.certificate.startswith("NOT CERTIFIED")
    assert "norm" in free.row["breaks"][0]
    assert f"{negative} of the 32" in narrative.remark(free)
    assert "The proof stops at layer" in narrative.remark(free)
    # Everything else is still constrained.
    assert all(least(free.model, layer) >= 0 for layer in ("linear2", "linear3", "head"))

    kept = contest(tmp_path, Convex(method=method), learning_rate=0.5)
    assert kept.certified
    assert all(least(kept.model, layer) >= 0 for layer in ("norm2", "norm3"))
    assert narrative.remark(kept) == ""


def test_free_scales_are_not_certified_even_where_all_of_them_stayed_positive(tmp_path: Path) -> None:
    free = contest(tmp_path, Convex(free_gamma=True), learning_rate=1e-4)
    assert free.proved
    assert free.scales == (0, 32)
    assert not free.certified
    assert free.row["certified"] is False
    assert "convex at these weights" in narrative.remark(free)
    assert narrative.remark(free).startswith("NOT CERTIFIED")
    assert "none counts as certified" in narrative.verdicts([free, replace(free, role="ordinary")])


@pytest.mark.parametrize("method", ["clip", "softplus"])
def test_a_model_forgets_the_constraint_of_scales_that_are_freed(method: str, digits: data.DataSet) -> None:
    example = digits.train.inputs[:2]
    model = build("ioc-mlp", (64,), 10, replace(TINY, hidden=(8, 8), convex=Convex(method=method)), 0)
    norm = model.get_submodule("layers.norm2")
    assert parametrize.is_parametrized(norm) is (method == "softplus")
    cone = without_scales(cx.constrain(model, example))
    assert not parametrize.is_parametrized(norm)
    assert cone.parameters == ("layers.linear2.weight", "layers.head.weight")
    state = {
        name: -torch.ones_like(value) if "norm2.weight" in name else value for name, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    assert float(norm.get_parameter("weight").detach().max()) == -1
    assert not cx.certify(model, example).convex
    # A whole constraint brings them back.
    cx.constrain(model, example)
    assert cx.certify(model, example).convex


# --- whitening -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WHITENINGS)
def test_whitening_is_what_its_formula_says(how: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(5, 5, generator=generator)
    inputs = torch.randn(300, 5, generator=generator) @ mixing + torch.randn(5, generator=generator)
    inputs[:, 4] = 2.0  # a pixel that never varies
    white = whitening(inputs, how, epsilon=0.1)(inputs)
    exact = inputs.double().numpy()
    covariance = np.cov(exact.T)
    if how == "standard":
        expected = (exact - exact.mean(0)) / np.sqrt(np.diag(covariance) + 0.1)
    else:
        # The inverse square root as the limit of Newton's iteration (Denman and Beavers), not by eigenvectors.
        root, inverse = covariance + 0.1 * np.eye(5), np.eye(5)
        for _ in range(60):
            root, inverse = (root + np.linalg.inv(inverse)) / 2, (inverse + np.linalg.inv(root)) / 2
        expected = (exact - exact.mean(0)) @ inverse
    np.testing.assert_allclose(white.numpy(), expected, atol=1e-4)
    correlation = np.corrcoef(whitening(inputs[:, :4], how, epsilon=1e-6)(inputs[:, :4]).numpy().T)
    assert bool(abs(correlation - np.eye(4)).max() < 1e-3) is (how == "zca")


@pytest.mark.parametrize(
    ("inputs", "how", "epsilon", "told"),
    [
        (torch.zeros(3, 2), "pca", 0.1, "must be one of 'standard', 'zca'"),
        (torch.zeros(3, 2), "zca", 0.0, "epsilon must be positive"),
        (torch.zeros(1, 2), "zca", 0.1, "N of 2 or more"),
        (torch.zeros(3, 2, 2), "zca", 0.1, r"not shape \(3, 2, 2\)"),
    ],
)
def test_whitening_refuses_what_it_cannot_do(inputs: Tensor, how: str, epsilon: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        whitening(inputs, how, epsilon)


class Folded(nn.Module):
    """Not affine."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.abs()


@pytest.mark.parametrize("how", some(WHITENINGS, 1, "whitenings"))
def test_whitening_is_inside_the_certificate(how: str, tmp_path: Path) -> None:
    run = contest(tmp_path, Convex(whiten=how, widen_first=2.0), learning_rate=1e-3)
    assert run.certified
    assert re.search(r"^  whiten(\.\S+)? .* affine$", run.certificate, re.MULTILINE), run.certificate
    step, network = run.model.get_submodule("whiten"), run.model.get_submodule("network")
    # What is certified takes the images as they are, and the step was fixed before training.
    whole = few("digits")
    expected = normaliser(whole.train, how)
    images = scaled(whole.test.images)
    outputs = predict(run.model, images)
    torch.testing.assert_close(outputs, predict(network, expected(images)))
    assert accuracy(outputs, whole.test.labels) == run.row["test_accuracy"]
    # A step that bends makes the same network uncertified: nobody looks past it.
    assert not cx.certify(nn.Sequential(step, Folded(), network), images[:2]).convex


# --- decay -----------------------------------------------------------------------------------------------------------


def test_the_rate_falls_by_one_factor_and_half_as_fast_for_the_convex_network() -> None:
    recipe = replace(TINY, epochs=4, decay=0.0016, learning_rate=1.0)
    ordinary, convex = (run.recipe for run in demo.contestants(0.0, recipe, seed=0)[:2])
    assert [ordinary.rate(epoch) for epoch in range(1, 5)] == pytest.approx([0.2**step for step in range(4)])
    assert [convex.rate(epoch) for epoch in range(1, 5)] == pytest.approx([0.2 ** (step / 2) for step in range(4)])


def test_both_networks_start_from_the_same_first_layer() -> None:
    ordinary, convex = (build(name, (64,), 10, replace(TINY, hidden=(8, 8)), 4) for name in ("mlp", "ioc-mlp"))
    assert torch.equal(ordinary.get_parameter("layers.linear1.weight"), convex.get_parameter("layers.linear1.weight"))
    old, new = (model.get_parameter("layers.linear2.weight").detach() for model in (ordinary, convex))
    torch.testing.assert_close(new, torch.where(old < 0, torch.exp(old - 5), old))

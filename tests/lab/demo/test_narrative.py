"""The page's sentences follow the numbers, whichever way those come out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from convexnet.lab.data import crescents
from convexnet.lab.demo import narrative
from convexnet.lab.demo import page as report
from convexnet.lab.demo.contest import RECIPE, Run
from convexnet.lab.runs.jobs import Job
from convexnet.lab.studies.plane import Boundary, Plane, intervals, two_convex_functions
from convexnet.learner import Point

POINT: Point = {
    "epoch": 1,
    "running_accuracy": 0.5,
    "train_loss": 1.0,
    "test_loss": 1.0,
    "train_accuracy": 0.9,
    "validation_accuracy": 0.8,
    "test_accuracy": 0.8,
}


def run(*, convex: bool, test: float = 0.8, ece: float = 0.1, memorised: float | None = 0.5, role: str = "") -> Run:
    job = Job("demo", "mlp", "digits", RECIPE, 0, noise=40.0)
    made = Run("made up", role or ("paper" if convex else "ordinary"), job)
    made.curve = [POINT, {**POINT, "epoch": 2, "test_accuracy": test, "validation_accuracy": 0.7}]
    made.row = {
        "memorised_wrong_labels": memorised,
        "ece": ece,
        "certified": convex,
        "convex_at_these_weights": convex,
        "clean_train_accuracy": 0.33,
        "test_accuracy_at_peak": 0.77,
    }
    return made


def boundary(test: float) -> Boundary:
    return Boundary(
        name="made up",
        outputs=1,
        convex=True,
        model=nn.Identity(),
        certificate="",
        certified=True,
        train_accuracy=1.0,
        test_accuracy=test,
        left=(0.0, 0.2),
        seconds=0.0,
    )


def test_the_network_that_is_ahead_is_named() -> None:
    high, low = run(convex=True, test=0.9), run(convex=False, test=0.6)
    assert "the convex network is ahead" in narrative.compare_test(low, high, 450)
    high, low = run(convex=False, test=0.9), run(convex=True, test=0.6)
    assert "the ordinary network is ahead" in narrative.compare_test(high, low, 450)


def test_a_difference_within_the_sampling_error_has_no_winner() -> None:
    told = narrative.compare_test(run(convex=False, test=0.81), run(convex=True, test=0.80), 450)
    assert "ahead" not in told
    assert "within the sampling error" in told
    # The same two accuracies are told apart by enough images.
    assert "ahead" in narrative.compare_test(run(convex=False, test=0.81), run(convex=True, test=0.80), 100_000)


def test_the_memorised_share_is_quoted() -> None:
    told = narrative.memorising(run(convex=False, memorised=0.123), run(convex=True, memorised=0.987))
    assert told.index("12.3 %") < told.index("98.7 %")


def test_limits_depend_on_the_control_run() -> None:
    slow = run(convex=True, memorised=0.1)
    fast = run(convex=True, memorised=0.9, role="control")
    assert "convexity alone does not rule memorising out" in narrative.limits(slow, fast)
    assert "still certified" in narrative.limits(slow, fast)
    fast.row["certified"] = False
    assert "still certified" not in narrative.limits(slow, fast)
    fast.row["memorised_wrong_labels"] = 0.12
    assert "did not make it memorise" in narrative.limits(slow, fast)


def test_calibration_names_the_closer_network() -> None:
    assert "for the convex" in narrative.calibrated(run(convex=False, ece=0.2), run(convex=True, ece=0.1))
    assert "for the ordinary" in narrative.calibrated(run(convex=False, ece=0.1), run(convex=True, ece=0.2))
    assert "equal" in narrative.calibrated(run(convex=False, ece=0.1), run(convex=True, ece=0.1))


def test_every_cell_of_the_table_is_the_number_its_column_names() -> None:
    made = run(convex=True, ece=0.1234)
    made.curve = [
        {**POINT, "validation_accuracy": 0.95, "test_accuracy": 0.77},
        {**POINT, "epoch": 2, "train_accuracy": 0.22, "validation_accuracy": 0.44, "test_accuracy": 0.55},
    ]
    (cells,) = report.rows([made])
    assert dict(zip(report.COLUMNS, cells, strict=True)) == {
        "Labels": "40 % wrong",
        "Network": "made up",
        "Train (used)": "22.0 %",
        "Train (true)": "33.0 %",
        "Test": "55.0 %",
        "Gap": "−33.0",
        "ECE": "0.123",
        "Test at peak": "77.0 %",
    }


def test_verdicts_count_what_was_proved() -> None:
    runs = [run(convex=True), run(convex=True), run(convex=False)]
    assert narrative.verdicts(runs) == "Proved convex: 2 of 2 convex networks and 0 of 1 ordinary network."
    runs[0].row["convex_at_these_weights"] = False
    assert "1 of 2 convex networks" in narrative.verdicts(runs)


def test_the_peak_is_chosen_on_validation() -> None:
    made = run(convex=True, test=0.99)
    assert made.end["test_accuracy"] == 0.99
    assert made.peak["epoch"] == 1
    assert made.peak["test_accuracy"] == 0.8


@pytest.mark.parametrize(
    ("fitted", "had", "reached", "told"),
    [
        (0.5, 0.9, 0.85, "explains all of the resistance"),
        (0.5, 0.8, 0.85, "explains most of the resistance"),
        (0.5, 0.65, 0.85, "explains less than half of the resistance"),
        (0.5, 0.55, 0.85, "explains nothing of the resistance"),
        (0.5, 0.9, 0.61, "no resistance here"),
        (0.999, 0.9, 0.85, "fitting less is not what sets it apart"),
    ],
)
def test_why_it_resists_follows_the_curves(fitted: float, had: float, reached: float, told: str) -> None:
    ordinary, convex = run(convex=False), run(convex=True)
    ordinary.curve = [
        {**POINT, "train_accuracy": 0.4, "test_accuracy": 0.3},
        {**POINT, "epoch": 2, "train_accuracy": 0.55, "test_accuracy": had},
        {**POINT, "epoch": 3, "train_accuracy": 0.99, "test_accuracy": 0.6},
    ]
    convex.curve = [{**POINT, "train_accuracy": fitted, "test_accuracy": reached}]
    said = narrative.underfitting(ordinary, convex, 1000)
    assert told in said
    if fitted < 0.99:
        assert "in epoch 2" in said


@pytest.mark.parametrize(
    ("deep", "shallow", "told"), [(0.9, 0.8, "depth helps here"), (0.8, 0.9, "hurts"), (0.8, 0.801, "not to be seen")]
)
def test_depth_is_judged_against_one_layer(deep: float, shallow: float, told: str) -> None:
    runs: list[Run] = []
    for noise in (0.0, 40.0):
        for role, test in (("ours", deep), ("same", 0.85), ("shallow", shallow)):
            made = run(convex=role != "same", test=test, role=role)
            made.job = replace(made.job, noise=noise)
            runs.append(made)
    assert told in narrative.recipe_that_works(runs, 450)


@pytest.mark.parametrize(
    ("single", "double", "told"), [(0.8, 0.99, "better"), (0.99, 0.8, "worse"), (0.9, 0.9, "equally")]
)
def test_the_plane_is_told_as_it_came_out(single: float, double: float, told: str) -> None:
    plane = Plane(crescents(10, 0), 1, [boundary(1.0), boundary(single), boundary(double)], nn.Identity(), "", True)
    assert told in narrative.plane_story(plane)


def test_points_have_a_sign_and_zero_has_none() -> None:
    assert [narrative.points(x) for x in (0.0123, -0.25, 0.0, -0.0001)] == ["+1.2", "−25.0", "0.0", "0.0"]


def test_two_hand_set_convex_functions_cross_four_times() -> None:
    network = two_convex_functions()
    x = torch.linspace(-2, 2, 801)
    outputs = network(x[:, None])
    torch.testing.assert_close(outputs[:, 0], 0.5 + 2 * (x.abs() - 1).clamp(min=0))
    torch.testing.assert_close(outputs[:, 1], x.abs())
    assert intervals(outputs[:, 1] - outputs[:, 0]) == 5
    assert "4 times" in narrative.on_a_line(network)

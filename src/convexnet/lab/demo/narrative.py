"""The sentences of the demo's page and of its terminal, computed from what was measured: none assumes an outcome."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from convexnet.lab.demo.contest import Run
from convexnet.lab.runs.metrics import standard_error
from convexnet.lab.studies.plane import Boundary, Plane, intervals
from convexnet.lab.training.epoch import predict


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage.

    Example:
        >>> percent(0.9314)
        '93.1 %'
    """
    return f"{100 * share:.{digits}f} %"


def points(share: float) -> str:
    """A difference of shares in percentage points with its sign, "+3.1"; zero has none."""
    shown = f"{100 * share:+.1f}".replace("-", "−")
    return shown if float(f"{100 * share:.1f}") else "0.0"


def pick(runs: Sequence[Run], role: str, *, wrong: bool) -> Run:
    """The one run of that role, on clean or on wrong labels."""
    (run,) = (r for r in runs if r.role == role and bool(r.wrong) == wrong)
    return run


def compare_test(ordinary: Run, convex: Run, tested: int) -> str:
    """Which network was right more often on the unseen images, and whether their number can tell."""
    left, right = convex.end["test_accuracy"], ordinary.end["test_accuracy"]
    margin = 2 * standard_error(left, right, tested)
    both = f"{percent(left)} ({convex.kind}) and {percent(right)} (ordinary)"
    if abs(left - right) <= margin:
        return (
            f"On the {tested} test images the accuracies are {both}; "
            f"a difference of {points(left - right)} points is within the sampling error of ±{100 * margin:.1f}."
        )
    ahead = convex.kind if left > right else "ordinary"
    return (
        f"On the {tested} test images the {ahead} network is ahead: {both}, a difference of "
        f"{100 * abs(left - right):.1f} points with a sampling error of ±{100 * margin:.1f}."
    )


def memorising(ordinary: Run, convex: Run) -> str:
    """How many of the wrong labels each network learnt by heart."""
    if ordinary.memorised is None or convex.memorised is None:
        raise ValueError("memorised labels are only defined for runs with wrong labels")
    return (
        f"After {ordinary.end['epoch']:.0f} epochs the ordinary network gives back {percent(ordinary.memorised)} "
        f"of the wrong labels it was shown, the {convex.kind} network {percent(convex.memorised)}."
    )


def at_peak(ordinary: Run, convex: Run) -> str:
    """The other remedy, stopping at the best validation accuracy."""
    return (
        "Stopped at its best validation accuracy instead, "
        f"the ordinary network reaches {percent(ordinary.peak['test_accuracy'])} on the test images "
        f"(epoch {ordinary.peak['epoch']:.0f}), the {convex.kind} network {percent(convex.peak['test_accuracy'])} "
        f"(epoch {convex.peak['epoch']:.0f})."
    )


def limits(convex: Run, control: Run) -> str:
    """Whether the constraint or the slow learning rate keeps the wrong labels out."""
    if convex.memorised is None or control.memorised is None:
        raise ValueError("memorised labels are only defined for runs with wrong labels")
    measured = (
        f"With a learning rate of {control.recipe.learning_rate:g} instead of {convex.recipe.learning_rate:g}, "
        f"the same {convex.kind} network gives back {percent(control.memorised)} of the wrong labels and reaches "
        f"{percent(control.end['test_accuracy'])} on the test images."
    )
    if control.memorised <= convex.memorised + 0.1:
        return f"{measured} So the faster rate did not make it memorise noticeably more."
    if control.certified:
        measured += " It is still certified convex."
    cause = "convexity" if convex.kind == "convex" else "the constraint"
    return f"{measured} So {cause} alone does not rule memorising out; how the network is trained matters too."


def calibrated(ordinary: Run, convex: Run) -> str:
    """Whose confidence is closer to its accuracy."""
    own, other = convex.row["ece"], ordinary.row["ece"]
    closer = convex.kind if own < other else "ordinary"
    verdict = "equal" if f"{own:.3f}" == f"{other:.3f}" else f"closer for the {closer} network"
    return (
        f"Expected calibration error {own:.3f} ({convex.kind}) and {other:.3f} (ordinary): "
        f"confidence and accuracy are {verdict}."
    )


def verdicts(runs: Sequence[Run]) -> str:
    """How many networks of either kind were proved convex."""
    told: list[str] = []
    for kind in ("constrained", "convex", "ordinary"):
        if same := [run for run in runs if run.kind == kind]:
            proved = sum(run.proved for run in same)
            told.append(f"{proved} of {len(same)} {kind} network{'' if len(same) == 1 else 's'}")
    said = f"Proved convex: {', '.join(told[:-1])} and {told[-1]}."
    if any(run.kind == "constrained" for run in runs):
        said += (
            " BatchNorm’s scales being free, nothing keeps a constrained network convex, and none counts as certified."
        )
    return said


def scales(run: Run) -> str:
    """What became of BatchNorm's scales where they were left free, and what that makes of the network; else empty."""
    if run.kind != "constrained":
        return ""
    negative, needed = run.scales
    count = "none" if not negative else f"{negative:,}"
    said = (
        "NOT CERTIFIED: BatchNorm’s scales were left free, so nothing kept this network convex while it trained. "
        f"At the end {count} of the {needed:,} that convexity needs non-negative {'is' if negative < 2 else 'are'} "
        "negative"
    )
    if run.proved:
        return f"{said}, so that it is convex at these weights, as the proof below shows, but not by its constraint."
    return f"{said}."


def remark(run: Run) -> str:
    """What to read above a certificate: nothing, for a network that is certified convex."""
    return " ".join(part for part in (scales(run), breaks(run)) if part)


def breaks(run: Run) -> str:
    """The first operation at which the proof of convexity stops; empty where it went through."""
    if run.row["breaks"] is None:
        return ""
    path, operator, reason = run.row["breaks"]
    return f"The proof stops at layer “{path}” ({operator}): {reason}."


def underfitting(ordinary: Run, convex: Run, tested: int) -> str:
    """How much of what the convex network gains on wrong labels the ordinary one has when it has fitted as much."""
    fitted, reached = convex.end["train_accuracy"], convex.end["test_accuracy"]
    said = f"The {convex.kind} network fits {percent(fitted)} of the labels it was given"
    matched = next((point for point in ordinary.curve if point["train_accuracy"] >= fitted), None)
    if matched is None:
        return f"{said}, more than the ordinary network at any time: fitting less is not what sets it apart."
    had, last = matched["test_accuracy"], ordinary.end["test_accuracy"]
    said += (
        f". When the ordinary network had fitted as many, in epoch {matched['epoch']:.0f}, it was right on "
        f"{percent(had)} of the test images; at the end, with {percent(ordinary.end['train_accuracy'])} fitted, on "
        f"{percent(last)}."
    )
    margin = 2 * standard_error(reached, last, tested)
    if reached - last <= margin:
        return f"{said} There is no resistance here that would have to be explained."
    share = (had - last) / (reached - last)
    how_much = "all" if share >= 1 else "most" if share > 0.5 else "less than half" if share > 0 else "nothing"
    return f"{said} So fitting less, which any early stop does too, explains {how_much} of the resistance."


def recipe_that_works(runs: Sequence[Run], tested: int) -> str:
    """Our convex network beside the ordinary one in the same recipe, and beside one hidden layer."""
    ours, same, shallow = (pick(runs, role, wrong=False) for role in ("ours", "same", "shallow"))
    noisy = [pick(runs, role, wrong=True) for role in ("ours", "same", "shallow")]
    said = (
        "A first layer of both signs, ReLU, a start near the identity, clipping and a free head. "
        f"{compare_test(same, ours, tested)} "
    )
    left, right = ours.end["test_accuracy"], shallow.end["test_accuracy"]
    margin = 2 * standard_error(left, right, tested)
    verdict = (
        "convex depth helps here"
        if left - right > margin
        else "convex depth hurts here"
        if right - left > margin
        else "that convex depth helps is not to be seen here"
    )
    said += (
        "One hidden layer, which is convex without any constraint as its head may be shifted, is right on "
        f"{percent(right)}: {verdict}. "
    )
    parts = [f"{percent(run.end['test_accuracy'])} ({run.name})" for run in noisy]
    return f"{said}With {percent(noisy[0].wrong, 0)} wrong labels: {', '.join(parts)}."


def lead(runs: Sequence[Run], tested: int) -> list[tuple[str, str]]:
    """The findings on the digits, each with a word or two that say what it is about."""
    ordinary, convex, control = (pick(runs, role, wrong=True) for role in ("ordinary", "paper", "control"))
    clean_ordinary, clean_convex = (pick(runs, role, wrong=False) for role in ("ordinary", "paper"))
    wrong = f"With {percent(ordinary.wrong, 0)} wrong labels"
    return [
        (wrong, f"{memorising(ordinary, convex)} {compare_test(ordinary, convex, tested)}"),
        ("With clean labels", compare_test(clean_ordinary, clean_convex, tested)),
        ("Why it resists", underfitting(ordinary, convex, tested)),
        ("Our recipe", recipe_that_works(runs, tested)),
        ("Confidence", f"{wrong}: {calibrated(ordinary, convex)}"),
        ("Early stopping", at_peak(ordinary, convex)),
        ("Limits", limits(convex, control)),
        ("Proof", verdicts(runs)),
    ]


def region(boundary: Boundary) -> str:
    """Accuracy of one network in the plane and how far its two regions are from convex."""
    first, second = boundary.left
    said = (
        "both regions passed every midpoint test"
        if first == second == 0
        else f"the midpoint leaves the region for {percent(first)} of the pairs of points in A "
        f"and {percent(second)} of those in B"
    )
    proof = "certified convex" if boundary.certified else "not certified convex"
    return f"{percent(boundary.test_accuracy)} on fresh points; {said}. Outputs: {proof}."


def on_a_line(model: nn.Module) -> str:
    """How many intervals the argmax of two functions of one variable has on [-2, 2]."""
    outputs = predict(model, torch.linspace(-2, 2, 801)[:, None])
    count = intervals(outputs[:, 1] - outputs[:, 0])
    return f"The larger of the two changes {count - 1} times, so [−2, 2] falls into {count} intervals."


def plane_story(plane: Plane) -> str:
    """The three networks of the plane in one sentence."""
    single, double = plane.boundaries[1], plane.boundaries[2]
    margin = 2 * standard_error(single.test_accuracy, double.test_accuracy, 2000)
    difference = double.test_accuracy - single.test_accuracy
    if difference > margin:
        outcome = "Two convex outputs separate the crescents better than one"
    elif difference < -margin:
        outcome = "Here two convex outputs separate the crescents worse than one"
    else:
        outcome = "Here one and two convex outputs separate the crescents equally well"
    return (
        f"{outcome}: {percent(double.test_accuracy)} against {percent(single.test_accuracy)} "
        f"on fresh points; the ordinary network reaches {percent(plane.boundaries[0].test_accuracy)}."
    )

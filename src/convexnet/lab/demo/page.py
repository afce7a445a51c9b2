"""Build the demo's page: one file, no requests, no script; sentences and captions come from the measurements."""

from __future__ import annotations

from collections.abc import Sequence

from convexnet.lab.demo import descriptions, narrative
from convexnet.lab.demo import pictures as figures
from convexnet.lab.demo.contest import PICTURED, Run
from convexnet.lab.reports.page import Panel, Section
from convexnet.lab.reports.pictures import picture, reliability_diagram
from convexnet.lab.reports.templates_read import template
from convexnet.lab.reports.theme import DARK, LIGHT
from convexnet.lab.runs import metrics
from convexnet.lab.studies.plane import Plane


def labelled(run: Run) -> str:
    """The labels a run was trained on, in words."""
    return f"{narrative.percent(run.wrong, 0)} wrong labels" if run.wrong else "clean labels"


def rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """The table's cells: labels, network, train on used labels, on clean labels, test, gap, ECE, test at the peak."""
    percent = narrative.percent
    return [
        (
            labelled(run).removesuffix(" labels"),
            run.name,
            percent(run.end["train_accuracy"]),
            percent(run.row["clean_train_accuracy"]),
            percent(run.end["test_accuracy"]),
            narrative.points(run.gap),
            f"{run.row['ece']:.3f}",
            percent(run.row["test_accuracy_at_peak"]),
        )
        for run in runs
    ]


COLUMNS = ("Labels", "Network", "Train (used)", "Train (true)", "Test", "Gap", "ECE", "Test at peak")


def _curves(runs: Sequence[Run]) -> Section:
    panels: list[Panel] = []
    for wrong in (False, True):
        drawn = [narrative.pick(runs, role, wrong=wrong) for role in PICTURED]
        name = labelled(drawn[0])
        ends = ", ".join(f"{run.end['test_loss']:.2f} ({run.name})" for run in drawn)
        lowest = ", ".join(f"{min(point['test_loss'] for point in run.curve):.2f}" for run in drawn)
        losses = f"Test loss at the end, in nats: {ends}; lowest on the way: {lowest}."
        accuracies = "; ".join(
            f"{run.name}: train {narrative.percent(run.end['train_accuracy'])}, "
            f"test {narrative.percent(run.end['test_accuracy'])}, gap {narrative.points(run.gap)}"
            for run in drawn
        )
        reference = 1.0 - drawn[0].wrong if wrong else None
        dotted = f" Dotted: the {narrative.percent(reference, 0)} of labels that are true." if reference else ""
        panels += [
            Panel(
                picture(
                    f"Loss, {name}",
                    f"Line chart of training and test loss over epochs, {name}. {losses}",
                    figures.curves(drawn, "loss", "cross-entropy, nats"),
                ),
                losses,
            ),
            Panel(
                picture(
                    f"Accuracy, {name}",
                    f"Line chart of training and test accuracy over epochs, {name}. At the end: {accuracies}.",
                    figures.curves(drawn, "accuracy", "accuracy", reference),
                ),
                f"At the end: {accuracies}.{dotted}",
            ),
        ]
    text = (
        "Training accuracy is counted on the labels the network was given, wrong ones included; "
        "test accuracy on the true labels of images it never saw."
    )
    return Section("How they learn", text, panels, legend="curves")


def _reliability(runs: Sequence[Run]) -> Section:
    panels: list[Panel] = []
    for run in runs:
        if run.role not in ("ordinary", "paper"):
            continue
        bars = [metrics.Reliability(int(count), sure, right) for count, sure, right in run.row["reliability"]]
        count = sum(bar.count for bar in bars)
        sure = sum(bar.count * bar.confidence for bar in bars) / count
        right = sum(bar.count * bar.accuracy for bar in bars) / count
        caption = (
            f"ECE {run.row['ece']:.3f}; mean confidence {narrative.percent(sure)}, accuracy {narrative.percent(right)}."
        )
        panels.append(
            Panel(
                picture(
                    f"{run.name}, {labelled(run)}",
                    f"Reliability diagram of {run.name} trained on {labelled(run)}. {caption}",
                    reliability_diagram(bars, run.convex),
                    size=(2.9, 2.7),
                ),
                caption,
            )
        )
    text = (
        f"Test images fall into {metrics.BINS} bins by the network's confidence. A bar is the share it got right, the "
        "mark across it its mean confidence: for a network as sure as it is right, the mark lies on top of the bar. "
        "Paler bars hold fewer images. "
        "ECE is the mean distance between the two, weighted by the number of images in the bin."
    )
    return Section("How sure they are", text, panels, legend="networks")


def _plane(plane: Plane) -> list[Section]:
    data = Panel(
        picture(
            "The points",
            "Scatter plot of two interleaved crescents, class A in circles, class B in triangles.",
            figures.boundary(plane.data, None),
            size=(3.4, 3.4),
        ),
        f"{len(plane.data)} training points in two classes (150 of each are drawn). "
        "Neither class fits into a convex set that spares the other.",
    )
    panels = [data]
    for result in plane.boundaries:
        caption = narrative.region(result)
        panels.append(
            Panel(
                picture(
                    result.name,
                    f"Map of the plane divided into two regions by: {result.name}. {caption}",
                    figures.boundary(plane.data, result.model),
                    size=(3.4, 3.4),
                ),
                caption,
            )
        )
    double = plane.boundaries[2]
    proof = "certified convex" if double.certified else "not certified convex"
    views = [
        Panel(
            picture(
                f"View from {name}",
                f"Two surfaces, one for each class, of the network with two outputs, {proof}, seen from {name}.",
                figures.surfaces(double.model, elevation, azimuth),
                size=(4.1, 3.3),
            ),
            caption,
        )
        for name, elevation, azimuth, caption in (
            ("the side", 6, -65, f"Both functions are {proof}."),
            ("above", 62, -90, "The class of a point is the surface that is higher there."),
        )
    ]
    story = narrative.on_a_line(plane.line)
    line_proof = "certified convex" if plane.line_certified else "not certified convex"
    views.append(
        Panel(
            picture(
                "One variable",
                f"Line chart of two functions of one variable, {line_proof}. {story}",
                figures.argmax_on_a_line(plane.line),
                size=(4.1, 3.3),
            ),
            f"{story} Both functions are set by hand and {line_proof}; the strip below shows which is larger.",
        )
    )
    return [
        Section(
            "What a convex network can draw",
            "One convex output with a threshold can only give class A a convex region. Two convex outputs, one for "
            "each class, can give both classes regions that are not convex, because the difference of convex "
            f"functions need not be convex. {narrative.plane_story(plane)}",
            panels,
            legend="classes",
        ),
        Section(
            "The two convex functions behind it",
            "The network with two outputs, as two surfaces over the plane, and the same idea in one variable.",
            views,
            legend="classes",
        ),
    ]


def build(
    runs: Sequence[Run],
    plane: Plane,
    *,
    seed: int,
    full: bool,
    measured: dict[str, str],
    command: str,
) -> str:
    """The whole page as HTML; `measured` holds further lines for "How it was measured", `command` repeats it."""
    ordinary, convex, ours = (narrative.pick(runs, role, wrong=True) for role in ("ordinary", "paper", "ours"))
    tested = ordinary.row["test_samples"]
    page = template("report.html.j2").render(
        light=LIGHT,
        dark=DARK,
        full=full,
        findings=narrative.lead(runs, tested),
        columns=COLUMNS,
        rows=list(zip(runs, rows(runs), strict=True)),
        sections=[_curves(runs), _reliability(runs), *_plane(plane)],
        certificates=[
            (
                descriptions.title(run),
                run.certified,
                narrative.remark(run),
                run.certificate,
            )
            for run in (ordinary, convex, ours)
        ],
        plane_certificates=[
            *((result.name, result.certified, result.certificate) for result in plane.boundaries),
            ("Two functions of one variable", plane.line_certified, plane.line_certificate),
        ],
        recipe=convex.recipe,
        ours=ours.recipe,
        convex=convex,
        same=descriptions.size(convex, ordinary),
        constraint=descriptions.constraint(convex),
        command=command,
        tested=tested,
        seed=seed,
        wrong=convex.wrong,
        measured=measured,
    )
    # A number and its percent sign stay on one line.
    return page.replace(" %", "\u00a0%")

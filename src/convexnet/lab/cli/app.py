"""The subcommands of `convexnet`: `demo`, `certify` and `predict`; the others are added from files of their own."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, cast

import typer

import convexnet as cx
from convexnet.choices import InitName, MethodName
from convexnet.lab.cli.choices import INITS, METHODS, WHITE_EPSILON, WHITENINGS
from convexnet.lab.cli.impute import impute
from convexnet.lab.cli.minimise import minimise
from convexnet.lab.cli.report import register
from convexnet.lab.cli.terminal import Allow, choice, print_certificate, refuse, refuse_unwritten, stops_cleanly
from convexnet.lab.errors import UsageError

app = typer.Typer(
    name="convexnet",
    help="Convex neural networks: prove that a network is convex in its input, and see what convexity buys.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"convexnet {cx.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Convex neural networks: prove that a network is convex in its input, and see what convexity buys."""


WIDEST = 16
"""A limit for `--widen-first`: beyond it the demo would only take longer."""


def widening(value: float | None) -> float | None:
    """A check of `--widen-first`; NaN does not pass."""
    if value is not None and not 1 < value <= WIDEST:
        raise typer.BadParameter(
            f"{value:g} is not above 1 and at most {WIDEST}; it multiplies the first layer's units."
        )
    return value


def share(value: float | None) -> float | None:
    """A check of `--decay`; NaN does not pass."""
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"{value:g} is not above 0 and at most 1; it is what is left of the learning rate.")
    return value


@app.command()
def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html and metrics.json.  [default: runs/demo-DATE-TIME]", file_okay=False),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the split, the wrong labels, the start and the order of the data.")
    ] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few epochs only: checks that everything runs, proves nothing.")
    ] = False,
    threads: Annotated[
        # Networks this small gain about a sixth from a second thread, and lose much more when another program runs.
        int,
        typer.Option(min=1, help="Processor threads that torch may use."),
    ] = 1,
    method: Annotated[
        str,
        choice(METHODS, help="How the signs of the convex network's weights are kept."),
    ] = "exponentiate",
    widen_first: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR",
            callback=widening,
            help="Units of the convex network's first layer, times the ordinary network's; above 1, for example 2.",
            show_default=False,
        ),
    ] = None,
    init: Annotated[
        str | None,
        choice(
            INITS,
            help="Draw the constrained weights anew.  [default: the ordinary network's, made non-negative]",
            show_default=False,
        ),
    ] = None,
    free_head: Annotated[
        bool,
        typer.Option(
            "--free-head", help="Allow weights of any sign in the last layer; they count relative to their minimum."
        ),
    ] = False,
    free_gamma: Annotated[
        bool,
        typer.Option("--free-gamma", help="Leave BatchNorm's scales free, a variant of the paper's: NOT convex."),
    ] = False,
    whiten: Annotated[
        str | None,
        choice(
            WHITENINGS,
            help="Whiten the convex network's inputs, inside the network; "
            f"{WHITE_EPSILON:g} is added to every variance.",
            show_default=False,
        ),
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            callback=share,
            help="Let the learning rate fall exponentially to this share of its start; for the convex network half as "
            "fast, to the square root.  [default: no decay]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare ordinary and convex networks on real digits.

    All are trained with clean and with 40 % wrong labels: the paper's pair, of which options say how the convex one is
    made; and the convex network in our recipe, with the ordinary one in the same and one hidden layer next to it.
    Prints a table and both certificates, and writes report.html (one file, opens anywhere) and metrics.json. The data
    come with scikit-learn, so no network is needed. Under two minutes on two processor cores.
    """
    folder = out if out is not None else Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    with stops_cleanly(f"no report was written. With --out {folder} the same command goes on."):
        import torch

        from convexnet.lab.cli.show_demo import run_demo
        from convexnet.lab.demo.contest import asked
        from convexnet.lab.models.convex import Convex
        from convexnet.lab.runs.lock import Taken
        from convexnet.lab.training.checkpoints import CheckpointError

        torch.set_num_threads(threads)

        how = Convex(cast(MethodName, method), widen_first, cast(InitName | None, init), free_head, free_gamma, whiten)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refuse(f"cannot write to {folder}: {error.strerror}. Choose another folder with --out.") from None
        try:
            run_demo(folder, seed=seed, quick=quick, recipe=asked(how, 1.0 if decay is None else decay))
        except (CheckpointError, Taken, OSError) as error:
            raise refuse(str(error)) from None


@app.command()
def certify(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FACTORY|FILE",
            help="An importable module, a colon, and a name in it: an nn.Module or a function without arguments "
            "that returns one. The current directory is importable. Or a network that was saved by `convexnet.save`.",
            show_default=False,
        ),
    ],
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N,N,...",
            help="Shape of one sample without the batch, such as 3,32,32. Repeat it for further inputs.  "
            "[default: the shape that a saved network records]",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=2, help="Samples in the example batch.")] = 2,
    wrt: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Indices, from 0, of the inputs in which it must be convex; the others are parameters.  [default: "
            "all inputs jointly]",
            show_default=False,
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="LO,HI",
            help="Certify on this box only, such as 0,1; inf and -inf are allowed.  [default: everywhere]",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A state_dict to load first; read with weights_only=True, so it cannot run code.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the model's start and of the example.")] = 0,
    allow: Allow = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the certificate as a page too.", dir_okay=False, show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the certificate as JSON.")] = False,
) -> None:
    """Prove that a model is convex in its inputs, or say why not.

    The model is judged in evaluation mode and is not changed. Importing it runs its code. Exit status: 0 convex;
    1 not certified convex, with the reason; 2 wrong usage, or a model that cannot be traced.

    Examples: convexnet certify torchvision.models:resnet18 --shape 3,224,224

    convexnet certify runs/first/network.safetensors --html proof.html
    """
    with stops_cleanly("nothing was certified."):
        from rich.console import Console

        from convexnet.lab.cli import user_model

        try:
            # What a user's module prints while it is imported must not end up in the middle of the JSON.
            with contextlib.redirect_stdout(sys.stderr):
                model, words = user_model.model_and_shapes(
                    factory, shape, seed=seed, weights=weights, allow=allow or ()
                )
                example, indices, domain = user_model.arguments(words, batch=batch, wrt=wrt, box=box, seed=seed)
                example = user_model.fit_example(model, example)
                certificate = cx.certify(model, example, wrt=indices, domain=domain)
        except UsageError as error:
            raise refuse(str(error)) from None
        except (cx.NotTraceable, ValueError, TypeError) as error:
            raise refuse(f"{factory} cannot be judged: {error}") from None
        if as_json:
            print(certificate.to_json())
        else:
            print_certificate(str(certificate), certificate.convex, Console(highlight=False))
        if html is not None:
            from convexnet.lab.reports.certificate_page import write_page

            try:
                write_page(certificate, html, factory)
            except OSError as error:
                raise refuse_unwritten(html, error) from None
    raise typer.Exit(0 if certificate.convex else 1)


@app.command()
def predict(
    file: Annotated[Path, typer.Argument(help="A network that `convexnet train` saved.", show_default=False)],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES...", help="Images, or folders of them.", show_default=False)
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each image.")] = 3,
    allow: Allow = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Name the most probable classes of images, with their probabilities.

    Images are brought to the size that the network was trained on. Exit status 2: a file is not an image or network.

    Example: convexnet predict runs/first/network.safetensors cat.jpg dog.jpg
    """
    with stops_cleanly("nothing was written."):
        from convexnet.lab.cli.show_predictions import show

        try:
            show(file, images, top=top, allow=allow or (), as_json=as_json)
        except UsageError as error:
            raise refuse(str(error)) from None


app.command()(minimise)
app.command()(impute)
register(app)

"""The subcommands of `convexnet`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import convexnet as cx
from convexnet.lab import user_model
from convexnet.lab.terminal import print_certificate

app = typer.Typer(
    name="convexnet",
    help="Convex neural networks: prove that a network is convex in its input, and see what convexity buys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextlib.contextmanager
def stops_cleanly(what_remains: str) -> Generator[None, None, None]:
    """Turn Ctrl-C into one line and the exit status that shells expect."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nStopped; {what_remains}", file=sys.stderr)
        raise typer.Exit(130) from None


def refuse(message: str) -> typer.Exit:
    """Print an error without a traceback and return the exit for wrong usage, status 2."""
    print(f"convexnet: {message}", file=sys.stderr)
    return typer.Exit(2)


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


@app.command()
def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html and metrics.json.  [default: runs/demo-DATE-TIME]", file_okay=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides split, wrong labels, start and data order.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few epochs only: checks that everything runs, proves nothing.")
    ] = False,
    threads: Annotated[
        # Networks this small gain about a sixth from a second thread, and lose much more when another program runs.
        int,
        typer.Option(min=1, help="Processor threads that torch may use."),
    ] = 1,
) -> None:
    """Compare an ordinary and a convex network on real digits.

    Both are trained with clean and with 40 % wrong labels.
    Prints a table and both certificates, and writes report.html (one file, opens anywhere) and metrics.json. The data
    come with scikit-learn, so no network is needed. Under two minutes on two processor cores.
    """
    folder = out if out is not None else Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    torch.set_num_threads(threads)
    with stops_cleanly("no report was written. Start again with the same command."):
        # Its packages take seconds to import, which `certify` need not wait for.
        from convexnet.lab.present import run_demo

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refuse(f"cannot write to {folder}: {error.strerror}. Choose another folder with --out.") from None
        run_demo(folder, seed=seed, quick=quick)


@app.command()
def certify(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:FACTORY",
            help="An importable module, a colon, and a name in it: an nn.Module or a function without arguments "
            "that returns one. The current directory is importable.",
            show_default=False,
        ),
    ],
    shape: Annotated[
        list[str],
        typer.Option(
            metavar="N,N,...",
            help="Shape of one sample without the batch, such as 3,32,32. Repeat it for further inputs.",
            show_default=False,
        ),
    ],
    batch: Annotated[int, typer.Option(min=2, help="Samples in the example batch.")] = 2,
    wrt: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Inputs to be convex in, counted from 0; the others are parameters.  [default: all inputs jointly]",
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the certificate as JSON.")] = False,
) -> None:
    """Prove that a model is convex in its inputs, or say why not.

    The model is judged in evaluation mode and is not changed. Importing it runs its code. Exit status: 0 convex;
    1 not certified convex, with the reason; 2 wrong usage, or a model that cannot be traced.

    Example: convexnet certify torchvision.models:resnet18 --shape 3,224,224
    """
    with stops_cleanly("nothing was certified."):
        try:
            example, indices, domain = user_model.arguments(shape, batch=batch, wrt=wrt, box=box, seed=seed)
            # What a user's module prints while it is imported must not end up in the middle of the JSON.
            with contextlib.redirect_stdout(sys.stderr):
                model = user_model.load(factory, seed=seed, weights=weights)
                example = user_model.fit_example(model, example)
                certificate = cx.certify(model, example, wrt=indices, domain=domain)
        except user_model.UsageError as error:
            raise refuse(str(error)) from None
        except (cx.NotTraceable, ValueError, TypeError) as error:
            raise refuse(f"{factory} cannot be judged: {error}") from None
        if as_json:
            print(certificate.to_json())
        else:
            print_certificate(str(certificate), certificate.convex, Console(highlight=False))
    raise typer.Exit(0 if certificate.convex else 1)

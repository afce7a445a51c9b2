"""The subcommand `rl`: learn to control an environment of Gymnasium by a Q that is convex in the action; `rl play`."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from convexnet.lab.cli.options import Threads
from convexnet.lab.cli.terminal import choice, refuse, stops_cleanly

METHODS = ("icnn", "naf", "ddpg", "td3", "sac")
TARGETS = ("bundle-entropy", "cutting-planes", "exact")
ACTING = ("cutting-planes", "bundle-entropy", "exact")

rl_app = typer.Typer(
    help="Learn to control an environment of Gymnasium by a Q whose negative is convex in the action.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@rl_app.callback(invoke_without_command=True)
def rl(
    context: typer.Context,
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="An environment with real actions, such as Pendulum-v1 or HalfCheetah-v5; MODULE:ID imports the "
            "module that registers it first.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the environment, for each seed.")] = 20_000,
    seeds: Annotated[int, typer.Option(min=1, help="How many runs, from the seeds 0, 1, ...")] = 1,
    method: Annotated[
        str,
        choice(METHODS, help="A Q that is minimised over actions, a quadratic one, or a baseline (extra `peers`)."),
    ] = "icnn",
    budget: Annotated[
        float | None,
        typer.Option(help="Allow actions with Σ |a| up to this only, in the environment's units.", show_default=False),
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(help="Bounds of actions that the environment does not bound.", show_default=False),
    ] = None,
    targets: Annotated[
        str | None,
        choice(
            TARGETS,
            help="How the best next action is found in learning.  [default: bundle-entropy; cutting-planes with a "
            "budget]",
            show_default=False,
        ),
    ] = None,
    acting: Annotated[
        str, choice(ACTING, help="How the best action is found while learning; evaluation is always exact.")
    ] = "cutting-planes",
    double: Annotated[
        bool, typer.Option("--double", help="Choose the next action by the network itself, and value it by its copy.")
    ] = False,
    copies: Annotated[int, typer.Option(min=1, help="Copies of the environment, side by side.")] = 1,
    noise: Annotated[float, typer.Option(min=0.0, help="Size of the exploration noise, of actions in [-1, 1].")] = 0.2,
    every: Annotated[int, typer.Option(min=1, help="Steps between evaluations.")] = 1000,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of an evaluation.")] = 10,
    warmup: Annotated[int, typer.Option(min=1, help="Steps with random actions before learning begins.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Transitions of an update.")] = 256,
    hidden: Annotated[str, typer.Option(metavar="N,N,...", help="Widths of the hidden layers.")] = "200,200",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs.  [default: runs/rl-ENV-METHOD]", file_okay=False)
    ] = None,
    threads: Threads = 1,
) -> None:
    """Learn to control an environment, and record the curve; every run goes on where it was stopped.

    OUT gets a folder for each seed, with log.csv, record.jsonl and network.safetensors, which `convexnet rl play` and
    `convexnet.load` read; `convexnet report OUT` draws the curves of all.

    Example: convexnet rl --env Pendulum-v1 --steps 20000 --out runs/pendulum
    """
    if context.invoked_subcommand is not None:
        return
    if env is None:
        raise refuse("which environment? Give --env ID, such as --env Pendulum-v1; `convexnet rl --help` says more")
    for option, value in (("--budget", budget), ("--bound", bound)):
        if value is not None and not (value > 0 and isfinite(value)):
            raise refuse(f"{option} must be a positive number, not {value:g}")
    if steps <= warmup:
        raise refuse(
            f"the first {warmup} steps are random (--warmup), and nothing is learnt in {steps}: give more --steps, or "
            "a smaller --warmup"
        )
    given: dict[str, Any] = {"steps": steps, "copies": copies, "sigma": noise, "every": min(every, steps)}
    given |= {"episodes": episodes, "warmup": warmup, "batch": batch, "double": double, "acting": acting}
    with stops_cleanly("the same command goes on."):
        import torch

        from convexnet.errors import ConvexNetError
        from convexnet.lab.cli.show_control import learn_all
        from convexnet.lab.data import DataError
        from convexnet.lab.runs.control_course import Control
        from convexnet.lab.runs.jobs import Job
        from convexnet.rl import Settings

        torch.set_num_threads(threads)
        try:
            given["hidden"] = tuple(int(width) for width in hidden.split(","))
        except ValueError:
            raise refuse(f"--hidden is a list of widths such as 200,200, not {hidden!r}") from None
        given["targets"] = targets or ("cutting-planes" if budget is not None else "bundle-entropy")
        given["method"] = "naf" if method == "naf" else "icnn"
        try:
            settings = Settings(**given)
            recipe: Any = Control("own", settings, budget or 0.0, bound or 0.0)
            model = {"icnn": "icnn-q"}.get(method, method)
            jobs = [Job("rl", model, env, recipe, seed, full=False) for seed in range(seeds)]
            folder = out if out is not None else Path("runs") / re.sub(r"[^\w.-]+", "-", f"rl-{env}-{method}")
            learn_all(jobs, folder)
        except (ValueError, ImportError, ConvexNetError, DataError) as error:
            raise refuse(str(error)) from None


@rl_app.command()
def play(
    file: Annotated[
        Path, typer.Argument(help="A policy that `convexnet rl` saved: network.safetensors.", show_default=False)
    ],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of where they begin.")] = 0,
    gif: Annotated[
        Path | None,
        typer.Option(help="Write the first episode as a moving picture.", dir_okay=False, show_default=False),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(min=1, help="Cut episodes off after so many steps.", show_default=False),
    ] = None,
) -> None:
    """Act by a saved policy, each action proved to be the best one, and print what the episodes earn.

    Example: convexnet rl play runs/pendulum/0/network.safetensors --gif pendulum.gif
    """
    with stops_cleanly("nothing was written."):
        from convexnet.errors import ConvexNetError
        from convexnet.lab.cli.show_control import play_policy
        from convexnet.lab.errors import UsageError

        try:
            play_policy(file, episodes, seed, gif, length)
        except (UsageError, ConvexNetError, ValueError, ImportError, OSError) as error:
            raise refuse(str(error)) from None

"""The command `convexnet`: its entry point `main`, and the words for a missing extra.

Everything heavy is imported once a command needs it. `app.py` has the subcommands; the files `show_*.py` do their work
on a terminal; what it is done with is in the other rooms.
"""

from __future__ import annotations

import io
import sys

NEEDED = {
    **dict.fromkeys(("typer", "rich", "jinja2", "matplotlib", "sklearn", "filelock"), "lab"),
    **dict.fromkeys(("lightning", "torchvision", "timm", "tensorboard", "scipy"), "lab"),
    "ray": "lab,cluster",
    **dict.fromkeys(("gymnasium", "mujoco"), "lab,rl"),
}
"""What the commands import beyond torch and numpy, and the extra it comes with."""


def main() -> None:
    """Run the command line; a missing optional package is one clear line and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        # A console that cannot write "−" or "→" gets a question mark instead of a crash.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        from convexnet.lab.cli.app import app

        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in NEEDED:
            raise
        print(
            f"convexnet: the command line needs the package {package!r}, which is not installed.\n"
            f'Install it with: pip install "convexnet[{NEEDED[package]}]"',
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)

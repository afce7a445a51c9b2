"""Records: one JSON object a line, with what is needed to measure the same thing again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("convexnet", "torch", "numpy", "scikit-learn", "torchmetrics", "matplotlib")


def write_whole(path: Path, text: str) -> None:
    """Write `text` under a temporary name in the same folder and rename it, so that no reader meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_records(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line; NaN is refused, because it is not JSON."""
    write_whole(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages the numbers depend on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, object]:
    """The processor, its cores, the threads in use and the system; never the machine's name."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str | None:
    """The commit of this source tree, with "+changes" where it was edited; None for an installed package."""
    room = Path(__file__).resolve().parent
    # A virtual environment often lies inside somebody else's repository: its commit would not be ours.
    if _git(room, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    revision = _git(room, "rev-parse", "HEAD")
    if revision is None:
        return None
    return revision + ("+changes" if _git(room, "status", "--porcelain", "--", str(room.parent)) else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

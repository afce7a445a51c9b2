"""Read, append and find records: one JSON object a line, with what is needed to measure the same thing again."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Generator, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import convexnet
from convexnet.lab.atomic import write_whole

PACKAGES = ("convexnet", "torch", "torchvision", "lightning", "numpy", "scikit-learn", "matplotlib")

VERSION = 1
"""Of the records of studies, in their field `record`."""

COMMON = frozenset(
    [
        *["record", "key", "study", "model", "dataset", "recipe", "seed", "full", "certified"],
        *["hardware", "versions", "commit", "seconds"],
    ]
)
"""What every record of a study has, whatever was learnt."""

FIELDS = COMMON | frozenset(
    [
        *["tier", "epochs", "train_accuracy", "clean_train_accuracy", "running_accuracy"],
        *["test_accuracy", "test_accuracy_at_peak"],
    ]
)
"""What the record of a classifier has; those of networks that have no test set say None."""

CLASSIFICATION = "classification"
"""The task of records that do not name one."""

Row = dict[str, Any]
"""One record: the result of one run, and what is needed to measure it again."""


class RecordError(Exception):
    """A file of records cannot be read or written; the message names file and line, and what to do."""


class NotRecorded(RecordError):
    """A record could not be added to its file: the message holds it, for one who wants to add it by hand.

    Attributes:
        short: the message without the record.
    """

    def __init__(self, short: str, line: str) -> None:
        super().__init__(f"{short}, or add this line by hand: {line}")
        self.short = short


def write_records(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line; NaN is refused, because it is not JSON."""
    write_whole(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_records(path: Path) -> list[Row]:
    """The records of studies in a file, in its order; half a last line, of a run that was killed, is left out.

    Raises:
        RecordError: a line is not a record, or is one of another version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    whole = text[: text.rfind("\n") + 1]
    rows: list[Row] = []
    for number, line in enumerate(whole.splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RecordError(f"{where}: not JSON ({error.msg}); mend or delete that line") from None
        if not isinstance(row, dict) or row.get("record") != VERSION:
            version = row.get("record") if isinstance(row, dict) else None
            raise RecordError(
                f"{where}: a record of version {version!r}, and this convexnet reads version {VERSION}. Read it with "
                f"the convexnet that wrote it{of(row)}, or leave that file out"
            )
        wanted = FIELDS if row.get("task", CLASSIFICATION) == CLASSIFICATION else COMMON
        if missing := wanted - set(row):
            raise RecordError(
                f"{where}: the record lacks {', '.join(sorted(missing))}; run it again or delete the line"
            )
        rows.append(row)
    return rows


def of(row: object) -> str:
    """Which convexnet wrote a record, as far as it says."""
    found = row.get("versions") if isinstance(row, dict) else None
    return f" ({found['convexnet']})" if isinstance(found, dict) and "convexnet" in found else ""


def append_record(path: Path, row: Mapping[str, object]) -> None:
    """Add one record to a file: all of its line or nothing, also when several processes write or the disk is full.

    Raises:
        RecordError: it cannot be written; what was in the file is unchanged, and the message holds the row.
    """
    line = line_of(row)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file, locked(file.fileno()):
            size = file.seek(0, os.SEEK_END)
            start = after_last_line(file, size)
            try:
                file.truncate(start)
                left = line.encode() + b"\n"
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), start)
                raise
    except OSError as error:
        raise NotRecorded(
            f"the record could not be added to {path} ({error.strerror}); nothing there was lost. Free some space and "
            "run the same command again",
            line,
        ) from error


def line_of(row: Mapping[str, object]) -> str:
    """A record as a line of JSON.

    Raises:
        RecordError: JSON has no such value; the message says where it is.

    Example:
        >>> line_of({"task": "clustering", "inertia": float("nan")})
        Traceback (most recent call last):
        convexnet.lab.runs.records.RecordError: a record cannot hold its column 'inertia': Out of range float values ...
    """
    for name, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RecordError(
                f"a record cannot hold its column {name!r}: {error}. Its values are numbers, strings, lists and "
                "dictionaries of them; the checkpoint has the whole run: leave the column out, or convert it, and run "
                "the same command again"
            ) from error
    return json.dumps(row, allow_nan=False)


def after_last_line(file: Any, size: int) -> int:
    """Where the last whole line of a file of `size` bytes ends; half a line, of a run that was killed, is none."""
    step = 1 << 16
    for start in range(max(0, size - step), -step, -step):
        place = max(0, start)
        file.seek(place)
        end = file.read(step).rfind(b"\n")
        if end >= 0:
            return place + end + 1
    return 0


@contextlib.contextmanager
def locked(descriptor: int) -> Generator[None, None, None]:
    """Alone with a file, where the system knows such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages the numbers depend on; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device | None = None) -> dict[str, object]:
    """The processor, its cores, the threads in use, the system, and an accelerator; never the machine's name."""
    accelerator = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None
    return {
        **({"accelerator": accelerator} if accelerator else {}),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str | None:
    """The commit of this source tree, with "+changes" where it was edited; None for an installed package."""
    package = Path(convexnet.__file__).resolve().parent
    # A virtual environment often lies inside somebody else's repository: its commit would not be ours.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    revision = _git(package, "rev-parse", "HEAD")
    if revision is None:
        return None
    return revision + ("+changes" if _git(package, "status", "--porcelain", "--", str(package)) else "")


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

"""Lock the folder of a run, so that it belongs to one process at a time; the kernel frees it when that process ends."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

from convexnet.lab.training.checkpoints import CheckpointError

LOCK, OWNER = ".lock", ".owner"


class Taken(Exception):
    """Another process works in the folder; the message says which one."""


@contextlib.contextmanager
def claimed(folder: Path) -> Generator[None, None, None]:
    """Hold a folder, which is made; everything in it is this process's until the end of the block.

    Raises:
        Taken: another process holds it.
        CheckpointError: the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, claimed(Path(folder)):
        ...     with claimed(Path(folder)):
        ...         pass
        Traceback (most recent call last):
        convexnet.lab.runs.lock.Taken: ... is in use by process ...
    """
    lock = FileLock(folder / LOCK, timeout=0)
    owner = folder / OWNER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise Taken(f"{folder} is in use by {holder_in_words(owner)}: wait for it, or choose another folder") from None
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be used as the folder of a run ({error.strerror or error}): choose another one"
        ) from error
    try:
        delete_partial_files(folder)
        with contextlib.suppress(OSError):
            owner.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()  # the file stays: to remove it might take away the lock of somebody who has just got it


def delete_partial_files(folder: Path) -> None:
    """Delete what a process that was killed had half written: nobody else writes here."""
    for draft in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            draft.unlink()


def holder_in_words(owner: Path) -> str:
    """Who holds a folder, as far as it is known."""
    try:
        return owner.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def in_use(folder: Path) -> bool:
    """Whether a process holds a folder; nothing is made or changed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with claimed(Path(folder)):
        ...         held = in_use(Path(folder))
        ...     held, in_use(Path(folder))
        (True, False)
    """
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False

"""Checkpoints: everything a run needs to go on as if it had never stopped, whole or not there.

A checkpoint is written under another name and renamed, so that a run killed at any moment leaves the last good one. It
holds tensors, numbers and words only, and is read without running code. The order of the data, augmentation and dropout
need no state: each epoch draws them from the seed and its own number (`epoch_seed`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from convexnet.lab.jobs import differences

FORMAT = "convexnet.checkpoint/1"
NAME = "checkpoint.pt"


class CheckpointError(Exception):
    """A checkpoint cannot be written or does not fit; the message says why, what is lost (nothing), and what to do."""


def epoch_seed(seed: int, epoch: int, what: str, process: int = 0) -> int:
    """A number of its own for every epoch, purpose and process of a run.

    Example:
        >>> (
        ...     epoch_seed(0, 1, "order") == epoch_seed(0, 1, "order"),
        ...     epoch_seed(0, 1, "order") == epoch_seed(0, 2, "order"),
        ... )
        (True, False)
    """
    words = f"{seed} {epoch} {what} {process}".encode()
    return int.from_bytes(hashlib.sha256(words).digest()[:8], "big") >> 1


def write_checkpoint(path: Path, settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that `path` is the old one or the new one at every moment, a power failure included.

    Args:
        path: of the file; its folder is made.
        settings: what the run was started with, compared when it is resumed.
        state: tensors, numbers, words, and dictionaries and lists of them.

    Raises:
        CheckpointError: it cannot be written (no space, no permission); the old one is still there, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    content = {"format": FORMAT, "settings": dict(settings), "surroundings": surroundings(), **state}
    try:
        with draft.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except (OSError, RuntimeError) as error:
        # torch wraps what the operating system says in an error of its own, whose cause or context has it.
        reason: BaseException = error
        while not isinstance(reason, OSError) and (reason.__cause__ or reason.__context__) is not None:
            reason = reason.__cause__ or reason.__context__ or reason
        said = reason.strerror if isinstance(reason, OSError) else str(error).splitlines()[0]
        kept = (
            "the one written before it is whole: free some space and resume from it"
            if path.exists()
            else ("there is none yet: free some space or choose another folder, and start again")
        )
        raise CheckpointError(f"the checkpoint {path} could not be written ({said}); {kept}") from error
    finally:
        draft.unlink(missing_ok=True)


def read_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state in a checkpoint of a run with these settings; no code in it is run.

    Raises:
        CheckpointError: it is damaged, of another version, or of a run with other settings, which are named.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in many ways
        raise CheckpointError(
            f"{path} cannot be read: it is damaged or no checkpoint ({type(error).__name__}). Delete it to start this "
            "run from the beginning"
        ) from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f"{path} is of format {version!r}, and this convexnet reads {FORMAT!r}: resume with the version that wrote "
            "it, or delete it to start this run from the beginning"
        )
    if changed := differences(content["settings"], settings):
        raise CheckpointError(
            f"{path} belongs to a run with other settings: {'; '.join(changed)}. Repeat the settings of that run to "
            "resume it, or choose another folder for this one"
        )
    return content


def surroundings() -> dict[str, Any]:
    """What may change the last bits of a sum between one machine and the next."""
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}


def elsewhere(state: Mapping[str, Any]) -> str:
    """What is not as it was when the checkpoint was written, in words; empty where nothing is.

    Example:
        >>> elsewhere({"surroundings": surroundings()})
        ''
    """
    changed = differences(state["surroundings"], surroundings())
    return f"{'; '.join(changed)}: the last bits may differ from a run that was not stopped" if changed else ""

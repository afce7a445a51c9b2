"""Checkpoints: everything a run needs to go on as if it had never stopped, whole or not there.

A checkpoint is written under another name and renamed, so that a run killed at any moment leaves the last good one. It
holds tensors, numbers and words only, and is read without running code; its last line is the SHA-256 of what is before.
The order of the data, augmentation and dropout need no state: they are drawn from the seed and the numbers of epoch and
batch (`epoch_seed`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from convexnet.lab.training.settings import differences

FORMAT = "convexnet.checkpoint/2"
NAME = "checkpoint.pt"

MARK = b"\nsha256 "
"""What the last line of a checkpoint begins with, behind the content; the digest and a line feed follow."""

TAIL = len(MARK) + 64 + 1


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
        TypeError: the state holds something that is not read again without running code.
    """
    if strange := unreadable(state):
        raise TypeError(
            f"{strange}: a checkpoint holds tensors, numbers, strings, and dictionaries and lists of them. Keep it as "
            "one of these, as in float(value), or torch.from_numpy(array)"
        )
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    content = {"format": FORMAT, "settings": dict(settings), "surroundings": surroundings(), **state}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            summed = Summed(file)
            torch.save(content, cast("IO[bytes]", summed))
            file.write(MARK + summed.sum.hexdigest().encode() + b"\n")
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
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


PLAIN = (bool, int, float, complex, str, bytes, type(None), set, Counter, torch.Size, torch.dtype, torch.device)
"""Classes whose values `torch.load` reads without running code; a subclass, as NumPy's float64, is another matter."""


def unreadable(state: Any, path: str = "state") -> str:
    """The first value in a state that could not be read again, in words; empty where there is none.

    Example:
        >>> unreadable({"rates": [0.5, 1]}), unreadable({"seen": {"rows": range(3)}})
        ('', "state['seen']['rows'] is a range")
    """
    if isinstance(state, torch.Tensor) or type(state) in PLAIN:
        return ""
    if type(state) in (dict, OrderedDict):
        keys = (unreadable(key, f"a key of {path}") for key in state)
        values = (unreadable(value, f"{path}[{key!r}]") for key, value in state.items())
        return next(filter(None, (*keys, *values)), "")
    if type(state) in (list, tuple):
        return next(filter(None, (unreadable(value, f"{path}[{place}]") for place, value in enumerate(state))), "")
    return f"{path} is a {type(state).__qualname__}"


class Summed(io.RawIOBase):
    """A file that adds up what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sum.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def content_of(path: Path) -> Any:
    """What is in a checkpoint, where it is what was written.

    Raises:
        CheckpointError: its checksum is another one.
    """
    whole = path.read_bytes()
    content, tail = whole[:-TAIL], whole[-TAIL:]
    if tail == MARK + hashlib.sha256(content).hexdigest().encode() + b"\n":
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    found = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)  # of an earlier version, it had no sum
    if isinstance(found, dict) and found.get("format") == FORMAT:
        raise CheckpointError(
            f"{path} is damaged: its checksum differs from the one it was written with. Delete it to start this "
            "run from the beginning"
        )
    return found


def read_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state in a checkpoint of a run with these settings; no code in it is run.

    Raises:
        CheckpointError: it is damaged, of another version, or of a run with other settings, which are named.
    """
    try:
        content = content_of(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise CheckpointError(
            f"{path} cannot be read: it is damaged or not a checkpoint ({type(error).__name__}). Delete it to start "
            "this run from the beginning"
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

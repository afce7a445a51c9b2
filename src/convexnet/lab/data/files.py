"""Find the files of a data set and compare them with their published checksums; errors that name what is wrong."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


class DataError(Exception):
    """The data cannot be used; the message says which file, why, and what to do."""


class MissingData(DataError):
    """A file or folder is not where it was looked for: get it, or name another folder."""


class CorruptData(DataError):
    """A file is not what it should be: truncated, damaged, or of another version. Get it again."""


def digest(path: Path) -> str:
    """The md5 sum of a file, in hexadecimal; the published ones are md5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check(folder: Path, files: Iterable[tuple[str, str]], *, what: str, remedy: str) -> None:
    """Require every file (name, md5) in `folder`, whole and unchanged.

    Args:
        folder: where the files should be.
        files: their names inside it and their md5 sums.
        what: the data set, for the message.
        remedy: how to get the files, for the message.

    Raises:
        MissingData: some are not there; all are named.
        CorruptData: one has another checksum.
    """
    wanted = dict(files)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        why = f"{', '.join(missing)} {verb} missing" if folder.is_dir() else "there is no such folder"
        raise MissingData(f"{what} is not in {folder.absolute()}: {why}. {remedy}")
    for name, expected in wanted.items():
        try:
            found = digest(folder / name)
        except OSError as error:
            raise MissingData(f"{what}: {folder / name} cannot be read: {error.strerror}") from error
        if found != expected:
            size = (folder / name).stat().st_size
            raise CorruptData(
                f"{what}: {folder / name} ({size} bytes) is damaged, truncated or another file: its md5 sum is "
                f"{found}, and {expected} is the published one. Delete it. {remedy}"
            )


def discard_damaged(folder: Path, files: Iterable[tuple[str, str]]) -> list[str]:
    """Delete those of some files (name, md5) in a folder that have another checksum, and return their names.

    A download that was interrupted, or the unpacking of one, leaves half a file under the name of the whole one, and
    torchvision takes some such files for what they should be.
    """
    found: list[str] = []
    for name, expected in files:
        path = folder / name
        if path.is_file() and digest(path) != expected:
            path.unlink()
            found.append(name)
    return found


def opened(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file; objects, which would be pickles, are refused.

    Raises:
        MissingData: there is no such file.
        CorruptData: it is another file, or not a whole one.
    """
    if not path.is_file():
        raise MissingData(f"there is no file {path.absolute()}: give the path of an .npz file")
    try:
        with path.open("rb") as file:  # numpy leaves a file open that it cannot read
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array (.npy)")
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError, KeyError, ValueError, OSError) as error:
        raise CorruptData(
            f"{path} cannot be read as an .npz file of plain arrays; it may be truncated or damaged: {error}"
        ) from error

"""Find the files of a data set and compare them with their published checksums; errors that name what is wrong."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
        found = arrays_in(path)
        if isinstance(found, np.ndarray):
            raise ValueError("it is a single array (.npy); numpy.savez writes several with their names")
    except (ValueError, OSError) as error:
        raise CorruptData(f"{path} cannot be read as an .npz file of plain arrays: {error}") from error
    return found


DAMAGED = (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError, KeyError, NotImplementedError)
"""What NumPy raises at a file that is not whole, besides ValueError."""


def arrays_in(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file, or those of an .npz file by name; objects, which would be pickles, are refused.

    Raises:
        ValueError: it is another file, not a whole one, or one of objects.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:  # numpy leaves a file open that it cannot read
        begin = file.read(6)
        if not begin:
            raise ValueError("it is empty")
        if begin[:2] != b"PK" and begin != b"\x93NUMPY":
            raise ValueError("it is neither a .npy nor an .npz file; numpy.savez writes one")
        file.seek(0)
        try:
            # Objects are told from plain arrays by what NumPy says of them, and never unpickled.
            archive: Any = np.load(file, allow_pickle=False)
            found = archive if isinstance(archive, np.ndarray) else {name: archive[name] for name in archive.files}
        except DAMAGED as error:
            raise ValueError(f"it is truncated or damaged ({error}): write or get it again") from error
        except ValueError as error:
            if "pickle" in str(error):
                raise ValueError("it holds Python objects: convert them to arrays of numbers before saving") from error
            raise ValueError(f"it is truncated or damaged ({error}): write or get it again") from error
    if isinstance(found, dict) and any(not isinstance(array, np.ndarray) for array in found.values()):
        raise ValueError("it is an archive of other files than arrays")
    return found

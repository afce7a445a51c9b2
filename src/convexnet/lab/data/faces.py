"""The Olivetti faces: ten pictures each of forty people, 64 × 64 grey values, AT&T Laboratories Cambridge."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convexnet.lab.data.files import CorruptData, DataError, MissingData

FILE = "olivettifaces.mat"
PEOPLE, EACH, SIDE = 40, 10, 64


def olivetti(data_dir: Path | str | None, download: bool = False) -> Tensor:
    """All 400 faces, bytes (400, 1, 64, 64); number k shows person k // 10.

    Args:
        data_dir: the folder of `olivettifaces.mat`, as Sam Roweis published it.
        download: let scikit-learn download the faces to this folder, where the file is not there.

    Raises:
        MissingData, CorruptData: they are not there, or not the published ones.
        DataError: the download failed.
    """
    if data_dir is None:
        raise MissingData("olivetti is read from a file: name the folder that it is in, or comes to (--data-dir)")
    folder = Path(data_dir).expanduser()
    path = folder / FILE
    columns = matrix(path) if path.is_file() or not download else fetched(folder)
    if columns.shape != (PEOPLE * EACH, SIDE * SIDE) or int(columns.max()) < 128:
        raise CorruptData(f"{path} does not hold 400 faces of 64 x 64 grey values: delete it and get it again")
    return torch.from_numpy(columns.reshape(-1, 1, SIDE, SIDE).transpose(0, 1, 3, 2).copy())


def digest(pictures: Tensor) -> str:
    """Sixteen hexadecimal digits that stand for the bytes of pictures, for records: the file has no published sum."""
    return hashlib.sha256(pictures.contiguous().numpy().tobytes()).hexdigest()[:16]


def matrix(path: Path) -> np.ndarray:
    """The faces of MATLAB's file, bytes (400, 4096): picture after picture, column after column."""
    from scipy.io import loadmat

    if not path.is_file():
        raise MissingData(
            f"the Olivetti faces are not in {path.parent.absolute()}: there is no {FILE}. Download them (--download), "
            "or name their folder (--data-dir)"
        )
    try:
        found: Any = loadmat(path).get("faces")
    except Exception as error:  # of a damaged file scipy raises errors of a dozen kinds
        raise CorruptData(f"{path} cannot be read as a file of MATLAB: {error}. Delete it and get it again") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8:
        raise CorruptData(f"{path} has no array of bytes called faces: delete it and get it again")
    return found.T


def fetched(folder: Path) -> np.ndarray:
    """The same from scikit-learn's download, which has them divided by the largest value."""
    from sklearn.datasets import fetch_olivetti_faces

    try:
        found: Any = fetch_olivetti_faces(data_home=str(folder), shuffle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"the Olivetti faces could not be downloaded to {folder.absolute()}: {error}") from error
    values = in_bytes(found.images)
    return values.transpose(0, 2, 1).reshape(len(values), -1)


def in_bytes(images: np.ndarray) -> np.ndarray:
    """Grey values that were divided by the largest one, as bytes again: the scale by which all are whole numbers.

    Raises:
        CorruptData: there is none.

    Example:
        >>> in_bytes(np.array([0.0, 7 / 200, 1.0])).tolist()
        [0, 7, 200]
    """
    for most in range(1, 256):
        scaled = images * most
        if float(np.abs(scaled - np.rint(scaled)).max()) < 1e-3:
            return np.rint(scaled).astype(np.uint8)
    raise CorruptData("the downloaded faces are not grey values of eight bits: delete them and get them again")

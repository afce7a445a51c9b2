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
MD5 = "c789a708157faad538517a418579ad21"
"""Of the 400 x 4096 bytes, picture after picture as MATLAB has them, which is column after column."""

BRIGHTEST = 242
"""The largest byte; the least is 0."""


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
    if columns.shape != (PEOPLE * EACH, SIDE * SIDE) or digest(columns) != MD5:
        raise CorruptData(f"{path} does not hold the published faces: delete it and get it again")
    return torch.from_numpy(columns.reshape(-1, 1, SIDE, SIDE).transpose(0, 1, 3, 2).copy())


def digest(columns: np.ndarray) -> str:
    """The md5 sum of bytes."""
    return hashlib.md5(np.ascontiguousarray(columns).data, usedforsecurity=False).hexdigest()


def matrix(path: Path) -> np.ndarray:
    """The faces of MATLAB's file, bytes (400, 4096)."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise MissingData(
            f"the Olivetti faces are not in {path.parent.absolute()}: there is no {FILE}. Download them (--download), "
            "or name their folder (--data-dir)"
        )
    try:
        found: Any = loadmat(path).get("faces")
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise CorruptData(f"{path} cannot be read as a file of MATLAB: {error}. Delete it and get it again") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8:
        raise CorruptData(f"{path} has no array of bytes called faces: delete it and get it again")
    return found.T


def fetched(folder: Path) -> np.ndarray:
    """The same from scikit-learn's download, which has them divided by the largest value."""
    from sklearn.datasets import fetch_olivetti_faces

    try:
        images: Any = fetch_olivetti_faces(data_home=str(folder), shuffle=False).images
    except (OSError, ValueError) as error:
        raise DataError(f"the Olivetti faces could not be downloaded to {folder.absolute()}: {error}") from error
    values = np.rint(images * (BRIGHTEST / images.max())).astype(np.uint8)
    return values.transpose(0, 2, 1).reshape(len(values), -1)

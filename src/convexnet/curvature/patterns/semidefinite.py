"""Proofs that a symmetric matrix is positive semidefinite: of the numbers as they are, without a tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
RATIONAL = 24
"""The largest matrix that is decomposed in rational numbers."""


def is_semidefinite(matrix: Tensor, radius: Tensor) -> bool:
    """Whether every symmetric matrix whose entries differ from these by at most `radius` is positive semidefinite.

    A Cholesky factor L of a matrix that is a little smaller leaves a remainder H - L Lᵀ, which is diagonally dominant
    if the rounding errors are small: both parts are semidefinite, whatever L is. Where the matrix is singular, and its
    entries are exact, rational numbers decide.
    """
    size = float(matrix.abs().max()) if matrix.numel() else 0.0
    if not bool(matrix.isfinite().all()) or not bool(radius.isfinite().all()) or bool((matrix.diagonal() < 0).any()):
        return False
    n = len(matrix)
    shift = 2 * float(radius.sum(1).max()) + 64 * n * n * EPS * size if n else 0.0
    factor, failed = torch.linalg.cholesky_ex(matrix - shift * torch.eye(n, dtype=torch.float64))
    if not int(failed) and bool(factor.isfinite().all()):
        rest = matrix - factor @ factor.mT
        error = 2 * (n + 4) * EPS * (factor.abs() @ factor.abs().mT + matrix.abs() + 1e-290) + radius
        diagonal = rest.diagonal() - error.diagonal()
        others = (rest.abs() + error).sum(1) - (rest.abs() + error).diagonal()
        if bool((diagonal > (1 + 1e-9) * others + 1e-290).all()):
            return True
    if bool((radius != 0).any()) or n > RATIONAL:
        return False
    return is_semidefinite_exactly([[Fraction(entry) for entry in row] for row in matrix.tolist()])


def is_semidefinite_exactly(rows: Sequence[list[Fraction]]) -> bool:
    """Symmetric elimination: a pivot must not be negative, and where it is zero so is its row."""
    matrix = [list(row) for row in rows]
    for k, pivots in enumerate(matrix):
        pivot = pivots[k]
        if pivot < 0 or (pivot == 0 and any(pivots[k + 1 :])):
            return False
        for i in range(k + 1, len(matrix)):
            if pivot and matrix[i][k]:
                factor = matrix[i][k] / pivot
                for j in range(k, len(matrix)):
                    matrix[i][j] -= factor * pivots[j]
    return True

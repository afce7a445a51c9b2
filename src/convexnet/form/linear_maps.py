"""Linear maps of a batch of samples: one matrix for all, with or without scales, or one for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Map:
    """x -> W (r * x) for each sample: one matrix (h, d), and for each sample a scale (B, d) of its columns, or none.

    Where even that does not describe the samples, the matrix is (B, h, d).

    Example:
        >>> import torch
        >>> double = Map(torch.eye(2), torch.full((3, 2), 2.0))
        >>> double(torch.ones(3, 2)).unique().item()
        2.0
    """

    matrix: Tensor
    scale: Tensor | None = None

    @property
    def shared(self) -> bool:
        """Whether it is the same for all samples."""
        return self.scale is None and self.matrix.ndim == 2

    def __call__(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, h)."""
        scaled = x if self.scale is None else x * self.scale
        return (self.matrix @ scaled[:, :, None])[..., 0] if self.matrix.ndim == 3 else scaled @ self.matrix.T

    def transposed(self, v: Tensor) -> Tensor:
        """(B, h) -> (B, d)."""
        back = (v[:, None, :] @ self.matrix)[:, 0] if self.matrix.ndim == 3 else v @ self.matrix
        return back if self.scale is None else back * self.scale

    def rows(self, index: Tensor) -> Map:
        """The map of some samples."""
        matrix = self.matrix[index] if self.matrix.ndim == 3 else self.matrix
        return Map(matrix, None if self.scale is None else self.scale[index])

    def on_columns(self, x: Tensor) -> Tensor:
        """(B, d, n) -> (B, h, n): the map of every column, as one product of matrices."""
        scaled = x if self.scale is None else x * self.scale[:, :, None]
        if self.matrix.ndim == 3:
            return self.matrix @ scaled
        batch, d, n = scaled.shape
        flat = scaled.transpose(0, 1).reshape(d, batch * n)
        return (self.matrix @ flat).view(-1, batch, n).transpose(0, 1)

    def columns(self, batch: int) -> Tensor:
        """The matrices (B, h, d), not copied where all samples share one."""
        matrix = self.matrix if self.matrix.ndim == 3 else self.matrix.expand(batch, *self.matrix.shape)
        return matrix if self.scale is None else matrix * self.scale[:, None, :]

    def scaled(self, before: Tensor | None, after: Tensor | None) -> Map:
        """x -> after * W (before * x): `before` (B, d) or (d,) for each input, `after` (h,) for each result."""
        matrix, scale = self.matrix, self.scale
        if after is not None:
            matrix = matrix * after[:, None]
        if before is not None:
            if before.ndim == 1:
                matrix = matrix * before
            else:
                scale = before if scale is None else scale * before
        return Map(matrix, scale)

    def rows_of(self, index: Tensor) -> Tensor:
        """The rows (B, K, d) with the given numbers (B, K), a set of its own for each sample."""
        if self.matrix.ndim == 3:
            picked = self.matrix.gather(1, index[:, :, None].expand(-1, -1, self.matrix.shape[2]))
        else:
            picked = self.matrix.index_select(0, index.flatten()).view(*index.shape, -1)
        return picked if self.scale is None else picked * self.scale[:, None, :]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Map:
        """The same map with both tensors changed."""
        return Map(change(self.matrix), None if self.scale is None else change(self.scale))

    def of(self, sample: int) -> Tensor:
        """The matrix (h, d) of one sample."""
        matrix = self.matrix[sample] if self.matrix.ndim == 3 else self.matrix
        return matrix if self.scale is None else matrix * self.scale[sample]

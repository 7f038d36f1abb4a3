"""A window of the latest gradients, kept in low precision and computed with in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum

# elements in float64 at a time: what stays in the cache of a core, and of a GPU
_PIECE = {"cpu": 1 << 17, "cuda": 1 << 22}
_OTHER_PIECE = 1 << 20


class GradientWindow:
    """Rows g_1, ..., g_m, of which a new one takes the place of the oldest, and their products.

    Columns belong to consecutive blocks of equal size, the last of which ends in columns of zeros.
    Products are computed in float64, a piece of the rows at a time, so that no copy of them is
    made; rows that were not yet filled are 0.

    Args:
        rows: (m, blocks * size) in any real dtype, which is written to.
        gram: (blocks, m, m) float64 with the inner products of the rows, which is written to;
            None where nobody reads them.
        blocks: Number of blocks.
        pushed: Number of rows that were pushed so far.
        sharded: Whether each rank holds some of the columns; products are then summed over ranks.

    Example:
        >>> window = GradientWindow(torch.zeros(2, 3), torch.zeros(1, 2, 2, dtype=torch.float64))
        >>> window.push(torch.tensor([1.0, 0.0, 2.0])), window.push(torch.tensor([0.0, 1.0, -1.0]))
        (True, True)
        >>> window.gram.tolist()
        [[[5.0, -2.0], [-2.0, 2.0]]]
    """

    def __init__(
        self,
        rows: Tensor,
        gram: Tensor | None,
        blocks: int = 1,
        pushed: int = 0,
        sharded: bool = False,
    ) -> None:
        self.rows, self.gram, self.blocks = rows, gram, blocks
        self.pushed, self.sharded = pushed, sharded
        self._spectrum: tuple[Tensor, Tensor] | None = None

    @property
    def filled(self) -> int:
        """Number of rows that hold a gradient."""
        return min(self.pushed, len(self.rows))

    @property
    def latest(self) -> int:
        """Number of the row that was pushed last."""
        return (self.pushed - 1) % len(self.rows)

    def push(self, row: Tensor) -> bool:
        """Put a row in the place of the oldest, unless it is not finite; return whether it was.

        Args:
            row: (blocks * size,), which is rounded to the dtype of the rows.
        """
        place = self.pushed % len(self.rows)
        row = row.to(self.rows.dtype)
        if self.gram is None:
            if not bool(torch.isfinite(row).all()):
                return False
        else:
            # the old row at this place counts nothing, and a NaN of one rank reaches all
            own = row.double().view(self.blocks, -1)
            products = self.local_products(own[..., None])[..., 0]
            products[:, place] = own.square().sum(dim=1)
            products = self._sum(products)
            if not bool(torch.isfinite(products).all()):
                return False
            self.gram[:, place] = products
            self.gram[:, :, place] = products
        self.rows[place] = row
        self.pushed += 1
        self._spectrum = None
        return True

    def products(self, x: Tensor) -> Tensor:
        """Return the products of all rows with vectors, over all ranks' columns.

        Args:
            x: (blocks, size, k) float64.

        Returns:
            (blocks, m, k) float64.
        """
        return self._sum(self.local_products(x))

    def local_products(self, x: Tensor) -> Tensor:
        """Return the products of all rows with vectors, over this rank's columns."""
        y = x.new_zeros(self.blocks, len(self.rows), x.shape[2])
        for blocks, columns, piece in self.pieces():
            y[blocks] += piece @ x[blocks, columns]
        return y

    def combination(self, coefficients: Tensor) -> Tensor:
        """Return sums of the rows.

        Args:
            coefficients: (blocks, m, k) float64.

        Returns:
            (blocks, size, k) float64.
        """
        size = self.rows.shape[1] // self.blocks
        x = coefficients.new_empty(self.blocks, size, coefficients.shape[2])
        for blocks, columns, piece in self.pieces():
            torch.matmul(piece.mT, coefficients[blocks], out=x[blocks, columns])
        return x

    def whole_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield some blocks at a time and the rows there, (blocks, m, size) in float64."""
        m, size = len(self.rows), self.rows.shape[1] // self.blocks
        # what is made of them is size x size
        count = max(1, self._limit() // max(1, size * max(m, size)))
        blocked = self.rows.view(m, self.blocks, size).transpose(0, 1)
        for first in range(0, self.blocks, count):
            yield slice(first, first + count), blocked[first : first + count].double()

    def pieces(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield blocks, columns in them and the rows there, (blocks, m, columns) in float64.

        The next piece takes the memory of the last one.
        """
        m, size = len(self.rows), self.rows.shape[1] // self.blocks
        limit = self._limit()
        count = min(self.blocks, max(1, limit // max(1, m * size)))
        width = size if count > 1 or m * size <= limit else max(1, limit // m)
        blocked = self.rows.view(m, self.blocks, size).transpose(0, 1)
        # new memory for each would cost more than the products
        buffer = None
        if self.rows.dtype != torch.float64:
            buffer = self.rows.new_empty(count, m, width, dtype=torch.float64)
        for first in range(0, self.blocks, count):
            for column in range(0, size, max(1, width)):
                blocks, columns = slice(first, first + count), slice(column, column + width)
                piece = blocked[blocks, :, columns]
                if buffer is not None:
                    piece = buffer[: piece.shape[0], :, : piece.shape[2]].copy_(piece)
                yield blocks, columns, piece

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Return eigenvalues (blocks, m) and eigenvectors (blocks, m, m) of the products.

        They are kept until the next row comes.
        """
        assert self.gram is not None
        if self._spectrum is None:
            values, vectors = torch.linalg.eigh(self.gram)
            self._spectrum = values, vectors
        return self._spectrum

    def _limit(self) -> int:
        return _PIECE.get(self.rows.device.type, _OTHER_PIECE)

    def _sum(self, products: Tensor) -> Tensor:
        return all_reduce_sum(products) if self.sharded else products


def window_state(m: int, columns: int, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return what an optimizer keeps of a window of one block, without gradients so far."""
    return {
        "rows": torch.zeros(m, columns, dtype=dtype, device=device),
        "gram": torch.zeros(1, m, m, dtype=torch.float64, device=device),
        "pushed": 0,
    }

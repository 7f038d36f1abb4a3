"""Products with a sparse matrix of codes, whose weight gradients cost what the non-zeros cost.

A dense step multiplies (B, F) matrices with (F, d) ones six times. Here only the pre-activations
are dense; the decoder, and the gradients of both weights, touch the n non-zeros alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class SparsePattern:
    """Where the non-zero entries of a (B, F) matrix stand, row by row.

    Args:
        rows: (n,) int64, ascending.
        features: (n,) int64, the columns.
        shape: (B, F).
    """

    def __init__(self, rows: Tensor, features: Tensor, shape: tuple[int, int]) -> None:
        self.rows = rows
        self.features = features
        self.shape = shape

    @classmethod
    def at(cls, positions: Tensor, shape: tuple[int, int]) -> SparsePattern:
        """Return the pattern of positions in the flattened matrix, which are grouped by row."""
        rows = torch.div(positions, shape[1], rounding_mode="floor")
        return cls(rows, positions - rows * shape[1], shape)

    @cached_property
    def row_bounds(self) -> Tensor:
        """(B + 1,) int64: the entries of row b are those from ``[b]`` to ``[b + 1]``."""
        return _bounds(self.rows, self.shape[0])

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The order of the entries by feature, their rows in it, and (F + 1,) bounds."""
        order = self.features.argsort(stable=True)
        return order, self.rows[order], _bounds(self.features, self.shape[1])

    def per_row(self) -> Tensor:
        """Return the number of entries of every row, (B,) int64."""
        return self.row_bounds.diff()

    def per_feature(self) -> Tensor:
        """Return the number of entries of every feature, (F,) int64."""
        return torch.bincount(self.features, minlength=self.shape[1])

    def sum_by_row(self, values: Tensor, table: Tensor) -> Tensor:
        """Return ``S @ table`` for the matrix S of ``values``, (n,), and a (F, d) table."""
        return _weighted_sums(table, self.features, self.row_bounds, values)

    def sum_by_feature(self, values: Tensor, table: Tensor) -> Tensor:
        """Return ``S.T @ table``, (F, d), for a (B, d) table; see ``sum_by_row``."""
        order, rows, bounds = self.by_feature
        return _weighted_sums(table, rows, bounds, values[order])


@dataclass(frozen=True, eq=False)
class SparseCode:
    """A sparse matrix (B, F).

    Args:
        values: (n,) non-zero entries; differentiable.
        pattern: Places of the values.
    """

    values: Tensor
    pattern: SparsePattern

    def dense(self) -> Tensor:
        """Return the matrix, (B, F), differentiably."""
        empty = self.values.new_zeros(self.pattern.shape)
        return empty.index_put((self.pattern.rows, self.pattern.features), self.values)

    def part(self, kept: Tensor) -> SparseCode:
        """Return the entries that ``kept``, (n,) bool, marks."""
        rows, features = self.pattern.rows[kept], self.pattern.features[kept]
        return SparseCode(self.values[kept], SparsePattern(rows, features, self.pattern.shape))


def encode_at(
    x: Tensor, weight: Tensor, bias: Tensor, pre_acts: Tensor, positions: Tensor
) -> SparseCode:
    """Return the positive ones of the chosen entries of ``x @ weight.T + bias``.

    The gradient, of ``weight``, ``bias`` and ``x``, flows through these entries alone.

    Args:
        x: (B, d).
        weight: (F, d).
        bias: (F,).
        pre_acts: (B, F) product from which the choice was made; without gradient.
        positions: (m,) int64, positions in the flattened ``pre_acts``, grouped by row.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.sparse_code import decode, encode_at
        >>> x, weight, bias = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, -4.0]]), torch.zeros(2)
        >>> code = encode_at(x, weight, bias, x @ weight.T, torch.tensor([1, 2, 3]))
        >>> code.values, code.pattern.rows, code.pattern.features
        (tensor([3., 2.]), tensor([0, 1]), tensor([1, 0]))
        >>> decode(code, weight)
        tensor([[  9., -12.],
                [  2.,   4.]])
    """
    pre_acts = pre_acts.detach()
    chosen = pre_acts.flatten()[positions]
    active = chosen > 0
    shape = (pre_acts.shape[0], pre_acts.shape[1])
    pattern = SparsePattern.at(positions[active], shape)
    return SparseCode(_LinearAt.apply(x, weight, bias, chosen[active], pattern), pattern)


def decode(code: SparseCode, weight: Tensor) -> Tensor:
    """Return ``code @ weight``.

    Args:
        code: (B, F).
        weight: (F, d).

    Returns:
        (B, d).
    """
    mixed = code.pattern.sum_by_row(code.values, weight.detach())
    return _AddWeightGradient.apply(mixed, weight, code.values.detach(), code.pattern)


class _LinearAt(torch.autograd.Function):
    """Entries of a linear layer's output, already computed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        values: Tensor,
        pattern: SparsePattern,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pattern = pattern
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        pattern, needed = ctx.pattern, ctx.needs_input_grad
        of_x = pattern.sum_by_row(grad, weight) if needed[0] else None
        of_weight = pattern.sum_by_feature(grad, x) if needed[1] else None
        of_bias = None
        if needed[2]:
            # not index_add, which a GPU does in no fixed order
            of_bias = pattern.sum_by_feature(grad, x.new_ones(len(x), 1)).squeeze(1)
        return of_x, of_weight, of_bias, None, None


class _AddWeightGradient(torch.autograd.Function):
    """The identity on ``code @ weight``, which adds the gradient of ``weight``."""

    @staticmethod
    def forward(
        ctx: Any, mixed: Tensor, weight: Tensor, values: Tensor, pattern: SparsePattern
    ) -> Tensor:
        ctx.save_for_backward(values)
        ctx.pattern = pattern
        return mixed.view_as(mixed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = ctx.pattern.sum_by_feature(values, grad.contiguous())
        return grad, of_weight, None, None


def _weighted_sums(table: Tensor, places: Tensor, bounds: Tensor, weight: Tensor) -> Tensor:
    """Return the sums of ``weight * table[places]`` between the bounds."""
    return F.embedding_bag(
        places,
        table,
        bounds,
        mode="sum",
        per_sample_weights=weight.to(table.dtype),
        include_last_offset=True,
    )


def _bounds(group: Tensor, groups: int) -> Tensor:
    ends = torch.bincount(group, minlength=groups).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])

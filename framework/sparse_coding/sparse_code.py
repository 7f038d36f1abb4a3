"""Products with a sparse matrix of codes, whose weight gradients cost what the non-zeros cost.

A dense step multiplies (B, F) matrices with (F, d) ones six times. Here only the pre-activations
are dense; the decoder, and the gradients of both weights, touch the n chosen entries alone.

How many of them are above 0 is known on a GPU only. So those that are not stay as well, with value
and gradient 0, and no size depends on the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.utilities.counts import count_values


class SparsePattern:
    """Where the entries of a sparse (B, F) matrix stand, row by row.

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
        return torch.searchsorted(
            self.rows, torch.arange(self.shape[0] + 1, device=self.rows.device)
        )

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        """The order of the entries by feature, their rows in it, and (F + 1,) bounds."""
        order = self.features.argsort(stable=True)
        bounds = count_values(self.features + 1, self.shape[1] + 1).cumsum(0)
        return order, self.rows[order], bounds

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
        values: (n,) entries, some of which may be 0; differentiable.
        pattern: Places of the values.
    """

    values: Tensor
    pattern: SparsePattern

    def per_row(self) -> Tensor:
        """Return how many entries of every row are not 0, (B,) int64."""
        return count_values(self.pattern.rows, self.pattern.shape[0], self.values != 0)

    def per_feature(self) -> Tensor:
        """Return how many entries of every feature are not 0, (F,) int64."""
        return count_values(self.pattern.features, self.pattern.shape[1], self.values != 0)

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return values, rows and features of the entries that are not 0; a GPU is waited for."""
        kept = self.values.nonzero().squeeze(1)
        return self.values[kept], self.pattern.rows[kept], self.pattern.features[kept]

    def dense(self) -> Tensor:
        """Return the matrix, (B, F), differentiably."""
        empty = self.values.new_zeros(self.pattern.shape)
        return empty.index_put((self.pattern.rows, self.pattern.features), self.values)

    def by_group(self, ends: Sequence[int]) -> SparseCode:
        """Return the matrix cut into groups of features, one below the other: (G B, F).

        Row ``g B + b`` has the entries of row b whose features lie in group g.

        Args:
            ends: Ascending ends of the G groups, of which the last is F.
        """
        rows, features = self.pattern.rows, self.pattern.features
        height, width = self.pattern.shape
        for end in ends[:-1]:
            rows = rows + height * (features >= end)
        order = rows.argsort(stable=True)
        pattern = SparsePattern(rows[order], features[order], (len(ends) * height, width))
        return SparseCode(self.values[order], pattern)


def encode_at(
    x: Tensor, weight: Tensor, bias: Tensor, pre_acts: Tensor, positions: Tensor
) -> SparseCode:
    """Return the chosen entries of ``x @ weight.T + bias``, and 0 for those that are below 0.

    The gradient, of ``weight``, ``bias`` and ``x``, flows through the entries above 0 alone.

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
        (tensor([3., 2., 0.]), tensor([0, 1, 1]), tensor([1, 0, 1]))
        >>> decode(code, weight)
        tensor([[  9., -12.],
                [  2.,   4.]])
    """
    pre_acts = pre_acts.detach()
    pattern = SparsePattern.at(positions, (pre_acts.shape[0], pre_acts.shape[1]))
    values = positive_part(pre_acts.flatten()[positions])
    return SparseCode(_LinearAt.apply(x, weight, bias, values, pattern), pattern)


def positive_part(values: Tensor) -> Tensor:
    """Return ``values``, and 0 for those that are not above 0, NaN among them."""
    return values.where(values > 0, 0.0)


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
    """Entries of a linear layer's output after the ReLU, already computed."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        values: Tensor,
        pattern: SparsePattern,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, values)
        ctx.pattern = pattern
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, values = ctx.saved_tensors
        pattern, needed = ctx.pattern, ctx.needs_input_grad
        grad = grad.where(values > 0, 0.0)
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

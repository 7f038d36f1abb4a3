"""The inverse of a damped empirical Fisher matrix, applied without forming the matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from framework.optim.window import GradientWindow
from framework.utilities.checks import check_at_least, check_one_of, check_positive

# a block up to so many times wider than the number of gradients is factored as it is: the products
# of the gradients are then no smaller a problem, and a less accurate one
_DENSE = 4


class EmpiricalFisherInverse:
    """Applies the inverse of ``F = damping * I + (1 / m) sum_j g_j g_j^T`` for m gradients g_j.

    Gradients are pushed one by one, the latest m count, and nothing of size d x d is made. All
    products are in float64, whatever the gradients are stored in, and three forms are used: a
    gradient of the window is solved for by ``F^-1 g_i = m G^T A^-1 e_i`` with the m x m matrix
    ``A = m * damping * I + G G^T`` (``ihvp_row``, one Cholesky factorization); any other vector is
    split into its part in the span of the gradients and the rest, whose difference is what cancels
    in Woodbury's formula; and narrow blocks are factored as they are. The relative error is that of
    float64 times the condition of F, where the recursion of the paper loses all digits in float32.

    With ``blocks`` F is block-diagonal over consecutive slices, as pruning takes it.

    Shapes: vectors (d,), or (k, d) for several at once; results are float64.

    Paper: Frantar, Kurtic and Alistarh, M-FAC: Efficient Matrix-Free Approximations of
    Second-Order Information, NeurIPS 2021, arXiv:2107.03356. The direct forms give what its
    recursions do in exact arithmetic, whatever the order of the gradients.

    Args:
        m: Number of gradients in the window.
        d: Number of entries of a gradient; those of this rank where they are sharded.
        damping: Damping of the matrix, above 0.
        blocks: Size of the blocks of a block-diagonal F; None for one block.
        denominator: ``official`` divides by m also while the window fills, ``filled`` by the
            number of gradients that it holds.
        storage_dtype: Data type in which gradients are kept.
        device: Device on which they are.
        sharded: Whether each rank holds some entries of every gradient. ``push``, ``ihvp`` and
            ``diag`` are then collective.
        form: What is factored: ``gram`` the products of the gradients, ``dense`` each block of F,
            ``auto`` the latter for blocks of at most 4 m entries.

    Raises:
        ValueError: An argument is out of range, or a vector has another size.
        RuntimeError: The matrix cannot be factored, as products of the gradients overflow.

    Example:
        >>> fisher = EmpiricalFisherInverse(m=2, d=3, damping=0.1)
        >>> for gradient in ([1.0, 0.0, 2.0], [0.0, 1.0, -1.0]):
        ...     _ = fisher.push(torch.tensor(gradient))
        >>> fisher.ihvp(torch.tensor([1.0, 2.0, 3.0])).float()
        tensor([-8.0108,  8.1720,  5.8065])
    """

    def __init__(
        self,
        m: int,
        d: int,
        damping: float,
        blocks: int | None = None,
        denominator: Literal["official", "filled"] = "official",
        storage_dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        sharded: bool = False,
        form: Literal["auto", "gram", "dense"] = "auto",
    ) -> None:
        check_at_least(1, m=m, blocks=blocks)
        check_at_least(0, d=d)
        check_one_of(("official", "filled"), denominator=denominator)
        check_one_of(("auto", "gram", "dense"), form=form)
        if sharded and (blocks is not None or form == "dense"):
            raise ValueError("A sharded window has one block in the form 'gram'.")
        size = d if blocks is None else min(blocks, max(1, d))
        count = 1 if blocks is None else max(1, math.ceil(d / size))
        if form == "auto":
            form = "dense" if size <= _DENSE * m and not sharded else "gram"
        rows = torch.zeros(m, count * size, dtype=storage_dtype, device=device)
        gram = None
        if form == "gram":
            gram = torch.zeros(count, m, m, dtype=torch.float64, device=device)
        self._take(GradientWindow(rows, gram, count, sharded=sharded), d, damping, denominator)

    def _take(self, window: GradientWindow, d: int, damping: float, denominator: str) -> None:
        check_positive(damping=damping)
        self.window, self.d, self.damping, self.denominator = window, d, damping, denominator

    @classmethod
    def over(
        cls, window: GradientWindow, damping: float, denominator: str = "official"
    ) -> EmpiricalFisherInverse:
        """Return the inverse for the gradients of a window, which it shares.

        Eigenvectors of their products are the window's, so that nothing of the order m^3 is done
        again for another damping by ``ihvp`` and ``diag``.

        Args:
            window: Gradients, the last of which has no columns to spare.
            damping: Damping of the matrix, above 0.
            denominator: ``official`` or ``filled``.
        """
        fisher = cls.__new__(cls)
        fisher._take(window, window.rows.shape[1], damping, denominator)
        return fisher

    @property
    def count(self) -> int:
        """What the sum over gradients is divided by."""
        return max(1, self.window.filled) if self.denominator == "filled" else self.m

    @property
    def m(self) -> int:
        """Number of gradients in the full window."""
        return len(self.window.rows)

    def push(self, g: Tensor) -> bool:
        """Put a gradient (d,) in the place of the oldest; return False for one that is not finite.

        Such a gradient is left out.
        """
        return self.window.push(self._blocked(g)[..., 0].flatten())

    @torch.no_grad()
    def ihvp(self, x: Tensor) -> Tensor:
        """Return ``F^-1 x`` for a vector (d,), or for each row of a matrix (k, d)."""
        blocked = self._blocked(x)
        solved = self._split(blocked) if self.window.gram is not None else self._dense(blocked)
        return self._flat(solved).view(x.shape)

    @torch.no_grad()
    def ihvp_row(self, i: int | None = None) -> Tensor:
        """Return ``F^-1 g_i`` for row i of the window, by default the latest, shape (d,).

        Nothing is subtracted and nothing divided by the damping. Rows are numbered by their place
        in the window: the j-th gradient pushed, from 0, is row j mod m.
        """
        i = self.window.latest if i is None else i
        gram = self.window.gram
        if gram is None:
            return self.ihvp(self.window.rows[i, : self.d])
        target = gram.new_zeros(self.m, 1)
        target[i] = self.count
        factor = _cholesky(_damped(gram, self.count * self.damping))
        target = target.expand(len(gram), -1, -1)
        return self._flat(self.window.combination(torch.cholesky_solve(target, factor)))[0]

    @torch.no_grad()
    def diag(self) -> Tensor:
        """Return the diagonal of ``F^-1``, shape (d,)."""
        if self.window.gram is None:
            inverses = (torch.cholesky_inverse(factor) for _, factor in self._factors())
            parts = [inverse.diagonal(dim1=1, dim2=2) for inverse in inverses]
            return torch.cat(parts).flatten()[: self.d]
        inside, outside = self._weights()
        vectors = self.window.spectrum()[1]
        rows = self.window.rows
        result = vectors.new_empty(self.window.blocks, rows.shape[1] // self.window.blocks)
        for blocks, columns, piece in self.window.pieces():
            squares = (vectors[blocks].mT @ piece).square_()
            # a share of the unit vector, which rounding must not bring above 1
            rest = (1 - (outside[blocks, None] @ squares)[:, 0]).clamp_(min=0)
            result[blocks, columns] = rest / self.damping + (inside[blocks, None] @ squares)[:, 0]
        return result.flatten()[: self.d]

    @torch.no_grad()
    def entry(self, a: int, b: int) -> Tensor:
        """Return entry (a, b) of ``F^-1``, a scalar."""
        for index in (a, b):
            if not 0 <= index < self.d:
                raise ValueError(f"Entries are numbered from 0 to {self.d - 1}, got {index}.")
        size = self.window.rows.shape[1] // self.window.blocks
        block = a // size
        if block != b // size:
            return self.window.rows.new_zeros((), dtype=torch.float64)
        if self.window.gram is None:
            unit = self.window.rows.new_zeros(self.d, dtype=torch.float64)
            unit[a] = 1
            return self.ihvp(unit)[b]
        inside, outside = (w[block] for w in self._weights())
        columns = self.window.rows[:, [a, b]].double()
        left, right = (self.window.spectrum()[1][block].T @ columns).unbind(1)
        rest = float(a == b) - (outside * left * right).sum()
        return rest / self.damping + (inside * left * right).sum()

    # ---- forms --------------------------------------------------------------------------------

    def _split(self, x: Tensor) -> Tensor:
        """Solve for vectors (blocks, size, k) by the products of the gradients."""
        window, vectors = self.window, self.window.spectrum()[1]
        inside, outside = (w[..., None] for w in self._weights())
        rest, total = x, torch.zeros_like(vectors[..., :1])
        # once more, as the first difference is exact to the size of x only
        for _ in range(2):
            part = vectors.mT @ window.products(rest)
            total = total + part
            rest = rest - window.combination(vectors @ (outside * part))
        return rest / self.damping + window.combination(vectors @ (inside * total))

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Return, of each eigenvector, its weight in F^-1 and in the projection on the span."""
        values = self.window.spectrum()[0]
        eps = torch.finfo(values.dtype).eps
        known = values > self.m * eps * values[:, -1:]
        inverse = torch.where(known, 1 / values.where(known, 1.0), 0.0)
        return inverse / (self.damping + values.clamp(min=0) / self.count), inverse

    def _dense(self, x: Tensor) -> Tensor:
        """Solve for vectors (blocks, size, k) by the blocks of F."""
        return torch.cat(
            [torch.cholesky_solve(x[blocks], factor) for blocks, factor in self._factors()]
        )

    def _factors(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield some blocks of F at a time, by their Cholesky factors (blocks, size, size)."""
        for blocks, rows in self.window.whole_blocks():
            yield blocks, _cholesky(_damped(rows.mT @ rows / self.count, self.damping))

    # ---- shapes -------------------------------------------------------------------------------

    def _blocked(self, x: Tensor) -> Tensor:
        """Return vectors as (blocks, size, k) in float64, with zeros at the end of the last."""
        if x.shape[-1:] != (self.d,) or x.ndim > 2:
            raise ValueError(f"A vector has {self.d} entries, got shape {tuple(x.shape)}.")
        columns = x.detach().to(self.window.rows.device, torch.float64).view(-1, self.d).T
        spare = self.window.rows.shape[1] - self.d
        if spare:
            columns = torch.cat([columns, columns.new_zeros(spare, columns.shape[1])])
        return columns.reshape(self.window.blocks, -1, columns.shape[1])

    def _flat(self, x: Tensor) -> Tensor:
        """Return vectors (blocks, size, k) as (k, d)."""
        return x.flatten(0, 1)[: self.d].T


def _damped(gram: Tensor, damping: float) -> Tensor:
    damped = gram.clone()
    damped.diagonal(dim1=1, dim2=2).add_(damping)
    return damped


def _cholesky(matrix: Tensor) -> Tensor:
    """Return Cholesky factors of (blocks, m, m), with more damping where rounding asks for it."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if not bool(info.any()):
        return factor
    # products are exact to this much, so that a damping below it says nothing
    eps = torch.finfo(matrix.dtype).eps
    scale = matrix.diagonal(dim1=1, dim2=2).amax(dim=1)[:, None, None]
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    factor, info = torch.linalg.cholesky_ex(matrix + len(eye) * eps * scale * eye)
    if bool(info.any()):
        raise RuntimeError(
            "The damped products of the gradients cannot be factored: raise the damping, or scale "
            "the loss so that gradients are smaller."
        )
    return factor

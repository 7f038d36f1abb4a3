"""Losses on a whole batch: Cauchy-Schwarz divergence and mutual information."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from framework.distributed.collectives import gather_with_grad, rows_per_rank, world_size
from framework.losses.loss import Loss, RegressionLoss
from framework.ops.cauchy_schwarz import (
    Denominator,
    Width,
    conditional_cs_divergence,
    cs_mutual_information,
    kernel_width,
)
from framework.ops.kernels import gaussian_gram
from framework.utilities.checks import check_at_least, check_one_of


class ConditionalCSDivergenceLoss(RegressionLoss):
    r"""Cauchy-Schwarz divergence of p(y|x) and its prediction q(ŷ|x), instead of squared error.

    Both densities are estimated with Gaussian kernels over the N rows of the batch. With
    :math:`W_{ji} = \kappa(x_j, x_i) / \sum_k \kappa(x_j, x_k)`, :math:`\kappa'` of width
    :math:`\sqrt 2 \sigma_y`, and :math:`f(a, b) = \sum_{jik} W_{ji} W_{jk} \kappa'(a_i, b_k)`,
    the integral of the product of two of the estimates summed over all :math:`x_j`,

    .. math:: D = \log f(y, y) + \log f(\hat y, \hat y) - 2 \log f(\hat y, y).

    D is never negative, and 0 only where the two estimates are equal at every :math:`x_j`, as at
    ŷ = y. It grows with the square of how far all ŷ are off, from δ² / (2 σ_y²) downwards the more
    y scatters at one x. The estimate is biased upwards, so that values of different batch sizes do
    not compare.

    A row is judged together with those within about σ_x of it: a wide kernel compares smoothed
    densities only, and learns averages over neighbors; where no row has a neighbor each is judged
    alone, by :math:`-2 \log \sum_i \exp(-\lVert \hat y_i - y_i \rVert^2 / 4 \sigma_y^2)` up to a
    constant, a squared error that far outliers leave cold.

    The paper's form, with ``denominator``, puts the samples in the place of the integral. With
    :math:`K_{ji} = \kappa(x_j, x_i)`, :math:`w_j = (\sum_i K_{ji})^{-2}` and κ of width σ_y on y,

    .. math:: D' = \log \sum_{ji} w_j K_{ji} \kappa(y_j, y_i)
                + \log \sum_{ji} w_j K_{ji} \kappa(\hat y_j, \hat y_i)
                - 2 \log \sum_{ji} w_j K_{ji} \kappa(\hat y_j, y_i)

    which is no divergence: it can be negative, and a network that fits its rows well is driven away
    from the targets, to values below the 0 that it has there. The loss warns once where it does.

    Shapes: predictions and targets (N,) or (N, T); ``inputs`` (N, ...), flattened; returns a
    scalar. One row gives ‖ŷ - y‖² / (2 σ_y²), twice as much in the paper's form, none gives 0 with
    a gradient path; with fewer than 16 rows the estimate means little, so set ``drop_last`` of the
    data. Sample weights do not apply: every row of the batch counts.

    Paper: Yu, Yu, Løkse, Jenssen, Príncipe, *Cauchy-Schwarz Divergence Information Bottleneck for
    Regression*, ICLR 2024, arXiv:2404.17951. The closed integrals are ours; the paper evaluates its
    estimates at the samples. Its derivation has the square of the sum in w, its code the sum of
    squares. Logarithms are natural, the code's have base 2. The code's script passes targets and
    predictions as vectors, which its divergence takes for one row: what it minimizes is the sum of
    squared errors over log 2, see ``CSIBLoss``. Unlike in the code, a prediction that is many σ_y
    off gives a finite value and gradient.

    Cost: O(N²) time and memory for N rows of the global batch, and one product of N x N matrices;
    no extra forward pass, no state.

    Use it for: regression by densities in place of means; on four tables as good as squared error.

    Args:
        sigma_x: Width of the kernel on ``inputs``: a number, as the paper's 1 for standardized
            columns; ``'median'`` for the median distance in the batch, ``'median/8'`` for an eighth
            of it; None for √d.
        sigma_y: Width of the kernel on predictions and targets, given like ``sigma_x``;
            ``'median'`` is that of the targets.
        denominator: Denominator of w in the paper's form: ``'square_of_sum'``, or
            ``'sum_of_squares'`` (:math:`w_j = 1 / \sum_i K_{ji}^2`) as in the paper's code; None
            for the exact divergence.
        gather: Whether to estimate on the global batch, with the same value on every rank;
            otherwise on each rank's own rows, another objective, which depends on the number of
            ranks.
        chunk_size: Largest number of rows computed at once; larger batches are computed in blocks
            of so many, each again in backward, so that memory is O(N * chunk_size). The value does
            not change.

    Raises:
        ValueError: an argument out of its range, or predictions and targets of different shapes.

    Example:
        >>> import torch
        >>> from framework.losses import ConditionalCSDivergenceLoss
        >>> x, y = torch.tensor([[0.0], [0.5], [2.0]]), torch.tensor([0.0, 1.0, 0.5])
        >>> ConditionalCSDivergenceLoss()(torch.tensor([0.2, 0.7, 0.9]), y, inputs=x)
        tensor(0.0465)
    """

    needs: ClassVar[tuple[str, ...]] = ("inputs",)
    batch_coupled: ClassVar[bool] = True

    def __init__(
        self,
        sigma_x: Width = "median/8",
        sigma_y: Width = 1.0,
        denominator: Denominator | None = None,
        gather: bool = True,
        chunk_size: int = 4096,
    ) -> None:
        super().__init__()
        check_widths(sigma_x=sigma_x, sigma_y=sigma_y)
        check_one_of(get_args(Denominator), denominator=denominator)
        check_at_least(1, chunk_size=chunk_size)
        self.sigma_x = sigma_x
        self.sigma_y = sigma_y
        self.denominator: Denominator | None = denominator
        self.gather = gather
        self.chunk_size = chunk_size
        self._warned = False

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the divergence, a scalar."""
        check_shapes(self, predictions, targets)
        rows = (needs["inputs"], targets, predictions)
        x, y, y_hat = global_rows(self.gather, predictions, *rows)
        if len(x) == 0:
            return predictions.sum() * 0.0
        value = conditional_cs_divergence(
            x, y, y_hat, self.sigma_x, self.sigma_y, self.denominator, self.chunk_size
        )
        if self.denominator is not None and not self._warned and self.may_look(value):
            self._warned = warn_below_zero(self, value)
        return value


class CSQMI(Loss):
    r"""Cauchy-Schwarz mutual information of the inputs x and the features t, to be made small.

    With :math:`K_{ji} = \kappa(x_j, x_i)`, :math:`Q_{ji} = \kappa(t_j, t_i)` and N rows,

    .. math:: I(x; t) = \log \tfrac1{N^2} \sum_{ji} K_{ji} Q_{ji}
                      + \log \tfrac1{N^4} \sum_{ji} K_{ji} \sum_{ji} Q_{ji}
                      - 2 \log \tfrac1{N^3} \sum_j \sum_i K_{ji} \sum_k Q_{jk}

    and normalized :math:`I(x; t) / \sqrt{I(x; x) I(t; t)}`. Both are 0 where t is constant.

    Shapes: ``inputs`` (N, ...) and ``features`` (N, ...), flattened; of predictions only the number
    of rows matters; returns a scalar. One row or none gives 0 with a gradient path. The estimate is
    biased upwards, so that values of different batch sizes do not compare. Sample weights do not
    apply: every row of the batch counts.

    Paper: Yu, Yu, Løkse, Jenssen, Príncipe, *Cauchy-Schwarz Divergence Information Bottleneck for
    Regression*, ICLR 2024, arXiv:2404.17951; its training uses the normalized form.

    Cost: O(N²) time and memory for N rows of the global batch; no extra forward pass, no state.

    Use it for: a weighted term beside any loss that makes the features forget the inputs.

    Where the kernel on the inputs is so narrow that no row has a neighbor, K is the identity and
    knows nothing of x; the loss warns once of it.

    Args:
        sigma_x: Width of the kernel on ``inputs``: a number, as the paper's 1 for standardized
            columns; ``'median'`` for the median distance in the batch, ``'median/8'`` for an eighth
            of it; None for √d.
        sigma_t: Width of the kernel on ``features``, given like ``sigma_x``.
        normalized: Whether to divide by the root of I(x; x) I(t; t).
        gather: Whether to estimate on the global batch, with the same value on every rank;
            otherwise on each rank's own rows.
        chunk_size: Largest number of rows computed at once; larger batches are computed in blocks
            of so many, each again in backward.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import torch
        >>> from framework.losses import CSQMI
        >>> x, t = torch.tensor([[0.0], [0.5], [2.0]]), torch.tensor([[0.3], [0.1], [1.0]])
        >>> CSQMI(normalized=False)(t, t, inputs=x, features=t)
        tensor(0.0660)
    """

    needs: ClassVar[tuple[str, ...]] = ("inputs", "features")
    batch_coupled: ClassVar[bool] = True

    def __init__(
        self,
        sigma_x: Width = 1.0,
        sigma_t: Width = 1.0,
        normalized: bool = True,
        gather: bool = True,
        chunk_size: int = 4096,
    ) -> None:
        super().__init__()
        check_widths(sigma_x=sigma_x, sigma_t=sigma_t)
        check_at_least(1, chunk_size=chunk_size)
        self.sigma_x = sigma_x
        self.sigma_t = sigma_t
        self.normalized = normalized
        self.gather = gather
        self.chunk_size = chunk_size
        self._warned = False

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the information, a scalar."""
        x, t = global_rows(self.gather, predictions, needs["inputs"], needs["features"])
        if len(x) == 0:
            return needs["features"].sum() * 0.0
        if not self._warned and self.may_look(x):
            self._warned = warn_without_neighbors(self, x, self.sigma_x)
        return cs_mutual_information(
            x, t, self.sigma_x, self.sigma_t, self.normalized, self.chunk_size
        )


def global_rows(gather: bool, like: Tensor, *values: Tensor) -> list[Tensor]:
    """Return every value as (N, everything else) in the precision of ``like``, over all ranks."""
    rows = [(v[:, None] if v.ndim == 1 else v.flatten(1)).to(like.dtype) for v in values]
    if not gather or world_size() == 1:
        return rows
    # one message for all, as the ranks wait for each
    counts = rows_per_rank(len(like), like.device)
    widths = [value.shape[1] for value in rows]
    return list(gather_with_grad(torch.cat(rows, dim=1), counts).split(widths, dim=1))


def warn_below_zero(loss: Loss, value: Tensor) -> bool:
    """Warn if the paper's form of the divergence is negative; return whether it is."""
    found = float(value.detach())
    if negative := found < -1e-3:  # less is rounding, or chance
        warnings.warn(
            f"{type(loss).__name__}: the paper's form of the divergence is {found:.3g}, less than "
            "at predictions equal to the targets, which training now leaves. Set denominator to "
            "null for the exact divergence, or a smaller sigma_x.",
            stacklevel=2,
        )
    return negative


def warn_without_neighbors(loss: Loss, x: Tensor, sigma_x: Width) -> bool:
    """Warn if the kernel on the rows of ``x``, (N, d), is the identity; return whether it is."""
    rows = x.detach()[:64]
    n = len(rows)
    if n < 2:
        return False
    pairs = float(gaussian_gram(rows, rows, kernel_width(sigma_x, x)).sum()) - n
    neighbors = pairs / (n * (n - 1)) * (len(x) - 1)
    if alone := neighbors < 0.01:
        warnings.warn(
            f"{type(loss).__name__}: with sigma_x {sigma_x} the kernel on {x.shape[1]} inputs is "
            "the identity: no row has a neighbor, and the information term knows nothing of the "
            "inputs. Set sigma_x to 'median'.",
            stacklevel=2,
        )
    return alone


def check_widths(**sigmas: Width) -> None:
    """Raise ``ValueError`` unless every width is positive, one of the words for it, or None."""
    for name, sigma in sigmas.items():
        if sigma in (None, "median", "median/8"):
            continue
        if isinstance(sigma, str) or not 0 < float(sigma or 0) < math.inf:
            raise ValueError(
                f"{name} must be above 0, 'median', 'median/8' or None, got {sigma!r}."
            )


def check_shapes(loss: Loss, predictions: Tensor, targets: Tensor) -> None:
    """Raise ``ValueError`` unless predictions and targets are (B,) or (B, T) alike."""
    if predictions.ndim not in (1, 2) or predictions.shape != targets.shape:
        raise ValueError(
            f"{type(loss).__name__} takes predictions and targets of one shape, (B,) or (B, T), "
            f"got {tuple(predictions.shape)} and {tuple(targets.shape)}."
        )

"""Losses on a whole batch: Cauchy-Schwarz divergence and mutual information."""

from __future__ import annotations

import math
from typing import Any, ClassVar, get_args

from torch import Tensor

from framework.distributed.collectives import gather_with_grad, rows_per_rank
from framework.losses.loss import Loss, RegressionLoss
from framework.ops.cauchy_schwarz import (
    Denominator,
    Width,
    conditional_cs_divergence,
    cs_mutual_information,
)
from framework.utilities.checks import check_at_least, check_one_of


class ConditionalCSDivergenceLoss(RegressionLoss):
    r"""Cauchy-Schwarz divergence of p(y|x) and its prediction q(ŷ|x), instead of squared error.

    With Gaussian kernels :math:`\kappa` over the N rows of the batch, :math:`K_{ji} = \kappa(x_j,
    x_i)` and :math:`w_j = (\sum_i K_{ji})^{-2}`,

    .. math:: D = \log \sum_{ji} w_j K_{ji} \kappa(y_j, y_i)
                + \log \sum_{ji} w_j K_{ji} \kappa(\hat y_j, \hat y_i)
                - 2 \log \sum_{ji} w_j K_{ji} \kappa(\hat y_j, y_i)

    D is 0 where ŷ = y, and grows with the square of how far all ŷ are off, from δ² / σ_y² downwards
    the more y scatters at one x. It is not symmetric in y and ŷ. On a finite batch 0 is not its
    minimum: the rows of K weigh unequally, which leaves predictions with a bias of some hundredths
    of the standard deviation. The estimate is biased upwards, so that values of different batch
    sizes do not compare.

    A row is judged together with those within about σ_x of it. Where y is nearly a function of x,
    that blurs: on UCI's energy set with its 8 inputs the test RMSE in standard deviations is 0.042
    with squared error, 0.203 with ``sigma_x=1``, and 0.043 with ``sigma_x=0.3``.

    Shapes: predictions and targets (N,) or (N, T); ``inputs`` (N, ...), flattened; returns a
    scalar. One row gives ‖ŷ - y‖² / σ_y², none gives 0 with a gradient path; with fewer than 16
    rows the estimate means little, so set ``drop_last`` of the data. Sample weights do not apply:
    every row of the batch counts.

    Paper: Yu, Yu, Løkse, Jenssen, Príncipe, *Cauchy-Schwarz Divergence Information Bottleneck for
    Regression*, ICLR 2024, arXiv:2404.17951. Its derivation has the square of the sum in w, its
    code the sum of squares; the former is the default. Logarithms are natural, the code's have base
    2. Unlike in the code, a prediction that is many σ_y off gives a finite value and gradient.

    Cost: O(N²) time and memory for N rows of the global batch; no extra forward pass, no state.

    Use it for: regression on noisy targets, where it overfits less than squared error.

    Args:
        sigma_x: Width of the kernel on ``inputs``: a number, 1 for standardized columns as in the
            paper; ``'median'`` for the median distance in the batch; None for √d, which keeps the
            kernel from underflowing where d is above about 20.
        sigma_y: Width of the kernel on predictions and targets, given like ``sigma_x``;
            ``'median'`` is that of the targets.
        denominator: Denominator of w: ``'square_of_sum'``, or ``'sum_of_squares'`` (:math:`w_j = 1
            / \sum_i K_{ji}^2`) as in the paper's code.
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
        tensor(0.0531)
    """

    needs: ClassVar[tuple[str, ...]] = ("inputs",)
    batch_coupled: ClassVar[bool] = True

    def __init__(
        self,
        sigma_x: Width = 1.0,
        sigma_y: Width = 1.0,
        denominator: Denominator = "square_of_sum",
        gather: bool = True,
        chunk_size: int = 4096,
    ) -> None:
        super().__init__()
        check_widths(sigma_x=sigma_x, sigma_y=sigma_y)
        check_one_of(get_args(Denominator), denominator=denominator)
        check_at_least(1, chunk_size=chunk_size)
        self.sigma_x = sigma_x
        self.sigma_y = sigma_y
        self.denominator: Denominator = denominator
        self.gather = gather
        self.chunk_size = chunk_size

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the divergence, a scalar."""
        check_shapes(self, predictions, targets)
        rows = (needs["inputs"], targets, predictions)
        x, y, y_hat = global_rows(self.gather, predictions, *rows)
        if len(x) == 0:
            return predictions.sum() * 0.0
        return conditional_cs_divergence(
            x, y, y_hat, self.sigma_x, self.sigma_y, self.denominator, self.chunk_size
        )


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

    Args:
        sigma_x: Width of the kernel on ``inputs``: a number, ``'median'`` for the median distance
            in the batch, or None for √d.
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

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the information, a scalar."""
        x, t = global_rows(self.gather, predictions, needs["inputs"], needs["features"])
        if len(x) == 0:
            return needs["features"].sum() * 0.0
        return cs_mutual_information(
            x, t, self.sigma_x, self.sigma_t, self.normalized, self.chunk_size
        )


def global_rows(gather: bool, like: Tensor, *values: Tensor) -> list[Tensor]:
    """Return every value as (N, everything else) in the precision of ``like``, over all ranks."""
    rows = [(v[:, None] if v.ndim == 1 else v.flatten(1)).to(like.dtype) for v in values]
    if not gather:
        return rows
    counts = rows_per_rank(len(like), like.device)
    return [gather_with_grad(value, counts) for value in rows]


def check_widths(**sigmas: Width) -> None:
    """Raise ``ValueError`` unless every width is positive, ``'median'`` or None."""
    for name, sigma in sigmas.items():
        if sigma is None or sigma == "median":
            continue
        if isinstance(sigma, str) or not 0 < sigma < math.inf:
            raise ValueError(f"{name} must be above 0, 'median' or None, got {sigma!r}.")


def check_shapes(loss: Loss, predictions: Tensor, targets: Tensor) -> None:
    """Raise ``ValueError`` unless predictions and targets are (B,) or (B, T) alike."""
    if predictions.ndim not in (1, 2) or predictions.shape != targets.shape:
        raise ValueError(
            f"{type(loss).__name__} takes predictions and targets of one shape, (B,) or (B, T), "
            f"got {tuple(predictions.shape)} and {tuple(targets.shape)}."
        )

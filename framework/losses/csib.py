"""The Cauchy-Schwarz information bottleneck for regression."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from framework.losses.cs_divergence import (
    check_shapes,
    check_widths,
    global_rows,
    warn_below_zero,
    warn_without_neighbors,
)
from framework.losses.loss import RegressionLoss
from framework.ops.cauchy_schwarz import (
    Denominator,
    Width,
    conditional_cs_divergence,
    cs_mutual_information,
)
from framework.utilities.checks import check_at_least, check_one_of

Prediction = Literal["cs", "mse"]


class CSIBLoss(RegressionLoss):
    r"""Information bottleneck: predict y, and keep little of the inputs x in the features t.

    .. math:: \mathrm{CSIB} = D(p(y|x); q(\hat y|x)) + \beta\, I(x; t)

    with the divergence D of ``ConditionalCSDivergenceLoss``, or the mean squared error in its
    place, and the information I of ``CSQMI``. No Gaussian assumption and no variational bound
    is made, and the features are deterministic.

    Shapes: predictions and targets (N,) or (N, T); ``inputs`` (N, ...) and ``features`` (N, ...),
    flattened; returns a scalar. One row gives the divergence or the squared error alone, none gives
    0 with a gradient path; with fewer than 16 rows the estimate means little, so set ``drop_last``
    of the data. Values of different batch sizes do not compare. Sample weights do not apply: every
    row of the batch counts.

    Paper: Yu, Yu, Løkse, Jenssen, Príncipe, *Cauchy-Schwarz Divergence Information Bottleneck for
    Regression*, ICLR 2024, arXiv:2404.17951. D is the exact divergence, and the paper's form an
    option. The paper's script hands its divergence vectors in place of columns, which makes it the
    sum of squared errors over log 2: what it trains is ``prediction='mse'`` with β log 2 / N as
    ``beta``, N the rows of a batch, up to a factor that Adam does not see.

    Cost: O(N²) time and memory for N rows of the global batch; no extra forward pass, no state.

    Use it for: regression on few and noisy rows, with features that should forget the inputs.

    Args:
        beta: Weight of I, at least 0; between 1e-4 and 1, to be picked on validation data.
        sigma_x: Width of the kernel on ``inputs``: a number, as the paper's 1 for standardized
            columns; ``'median'`` for the median distance in the batch; None for √d; ``'median/8'``
            for an eighth of the median in D, and the median in I, for which the former is too
            narrow to see any neighbors.
        sigma_y: Width of the kernel on predictions and targets, given like ``sigma_x``.
        sigma_t: Width of the kernel on ``features``, given like ``sigma_x``.
        normalized: Whether to divide I by the root of I(x; x) I(t; t), as the paper's training
            does.
        denominator: Denominator of the paper's form of D, which can be negative:
            ``'square_of_sum'``, or ``'sum_of_squares'`` as in the paper's code; None for the exact
            divergence.
        prediction: Prediction term: ``'cs'`` for D, ``'mse'`` for the mean squared error.
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
        >>> from framework.losses import CSIBLoss
        >>> x, t = torch.tensor([[0.0], [0.5], [2.0]]), torch.tensor([[0.3], [0.1], [1.0]])
        >>> y, y_hat = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.2, 0.7, 0.9])
        >>> CSIBLoss(beta=0.1)(y_hat, y, inputs=x, features=t)
        tensor(0.1353)
    """

    needs: ClassVar[tuple[str, ...]] = ("inputs", "features")
    batch_coupled: ClassVar[bool] = True

    def __init__(
        self,
        beta: float = 0.01,
        sigma_x: Width = "median/8",
        sigma_y: Width = 1.0,
        sigma_t: Width = 1.0,
        normalized: bool = True,
        denominator: Denominator | None = None,
        prediction: Prediction = "cs",
        gather: bool = True,
        chunk_size: int = 4096,
    ) -> None:
        super().__init__()
        check_at_least(0, beta=beta)
        check_widths(sigma_x=sigma_x, sigma_y=sigma_y, sigma_t=sigma_t)
        check_one_of(get_args(Denominator), denominator=denominator)
        check_one_of(get_args(Prediction), prediction=prediction)
        check_at_least(1, chunk_size=chunk_size)
        self.beta = beta
        self.sigma_x = sigma_x
        self.sigma_y = sigma_y
        self.sigma_t = sigma_t
        self.normalized = normalized
        self.denominator: Denominator | None = denominator
        self.prediction = prediction
        self.gather = gather
        self.chunk_size = chunk_size
        self._sigma_x_of_information: Width = "median" if sigma_x == "median/8" else sigma_x
        self._warned = False

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the prediction term plus beta times the information, a scalar."""
        check_shapes(self, predictions, targets)
        rows = (needs["inputs"], targets, predictions, needs["features"])
        x, y, y_hat, t = global_rows(self.gather, predictions, *rows)
        if len(x) == 0:
            return predictions.sum() * 0.0
        if self.prediction == "mse":
            term = F.mse_loss(y_hat, y)
        else:
            term = conditional_cs_divergence(
                x, y, y_hat, self.sigma_x, self.sigma_y, self.denominator, self.chunk_size
            )
        if not self._warned and self.may_look(x):
            self._warned = self._warn(x, term)
        return term + self.beta * cs_mutual_information(
            x, t, self._sigma_x_of_information, self.sigma_t, self.normalized, self.chunk_size
        )

    def _warn(self, x: Tensor, term: Tensor) -> bool:
        if self.beta > 0 and warn_without_neighbors(self, x, self._sigma_x_of_information):
            return True
        paper = self.prediction == "cs" and self.denominator is not None
        return paper and warn_below_zero(self, term)

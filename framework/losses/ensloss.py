"""EnsLoss: every step follows the slopes of another randomly drawn, calibrated loss."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import draw_for_global_batch, gather, shared_generator
from framework.losses.loss import (
    ClassificationLoss,
    check_labels,
    check_logits,
    two_class_logits,
)
from framework.utilities.checks import check_at_least, check_interval, check_one_of
from framework.utilities.randomness import global_seed

LEAST_SLOPE = 1e-6  # a slope of zero would leave a drawn loss uncalibrated


class EnsLoss(ClassificationLoss):
    r"""An ensemble of calibrated losses: dropout over the loss function.

    Training sees a loss only through its slopes at the margins of a batch. Every step draws slopes
    that *some* convex, classification-calibrated loss could have there, and sends those backward:

    .. math:: h = \mathrm{BoxCox}^{-1}_\lambda(\xi),\ \xi \sim N(0, 1); \qquad
              g = \max(\mathrm{sort}(-h), \mathrm{clip}); \qquad
              L = \tfrac1B \sum_j g_{\mathrm{rank}(z_j)} z_j

    with z the margins, which the sorted g are dealt to in rising order, divided by z beyond 1, and
    constant for the gradient. So the value of the loss means nothing and must not be monitored. In
    evaluation mode the loss is cross-entropy, so that validation reads a number that does.

    A margin is y s for binary scores s and y in {-1, 1}. The paper and its code know no more; for
    K > 2 classes, an extension, it is :math:`f_y - f_k` for each k other than y, all of a batch
    sorted together, which for K = 2 is the binary rule on :math:`s = f_1 - f_0`.

    The draws are a function of the run's seed, the step and the epoch alone. With gradient
    accumulation each of a step's batches is sorted by itself and has draws of its own.

    Shapes: predictions (B, K) logits, K >= 2, or scores (B,) or (B, 1) of class 1; targets (B,)
    int64, no soft labels, which have no margin; epoch, step and micro_batch ints; returns a
    scalar, or (B,).

    Paper: Dai, *EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in
    Classification*, ICML 2025, arXiv:2409.00908. Clip, tail and the fixed lambda are those of the
    official code (statmlben/ensLoss).

    Cost: no state; sorts B(K-1) margins: 0.3 ms at 128 x 10, 100 cross-entropies at 4096 x 1000.
    Use it for: deep networks that overfit a small training set; not for a short fine-tuning.

    Args:
        boxcox_lambda: Parameter lambda of the inverse Box-Cox transform; 0 is the exponential.
        lambda_period: Epochs after which lambda is drawn anew from U(-1, 1), instead of the fixed
            ``boxcox_lambda``.
        clip: Steepest slope, below 0.
        tail: Whether to divide the slopes at margins z > 1 by z, so that they vanish for large
            margins.
        multiclass: Margins of more than two classes: ``'relative'`` as above; ``'ovr'``: one binary
            problem on every logit, each with draws of its own, summed over the classes.
        sync: Scope of the sorting: ``'global'`` sorts the margins of all ranks together, so that
            any number of ranks takes the steps of one process; ``'local'`` sorts each rank's own:
            as valid a draw, and without communication of margins, but another run for every number
            of ranks.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``; the mean is over rows.

    Raises:
        ValueError: an argument out of its range, or predictions or targets of another shape.

    Example:
        >>> import torch
        >>> from framework.losses import EnsLoss
        >>> scores = torch.tensor([1.5, -0.2, 3.0], requires_grad=True)
        >>> loss = EnsLoss(reduction="sum")
        >>> loss(scores, torch.tensor([1, 1, 0]), epoch=0, step=0).backward()
        >>> scores.grad.sign()  # every slope pushes towards the label
        tensor([-1., -1.,  1.])
    """

    needs: ClassVar[tuple[str, ...]] = ("epoch", "step", "micro_batch")
    monitorable: ClassVar[bool] = False

    def __init__(
        self,
        boxcox_lambda: float = 0.0,
        lambda_period: int | None = None,
        clip: float = -1.0,
        tail: bool = True,
        multiclass: str = "relative",
        sync: str = "global",
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        check_interval("(-inf, inf)", boxcox_lambda=boxcox_lambda)
        check_at_least(1, lambda_period=lambda_period)
        check_interval("(-inf, 0)", clip=clip)
        check_one_of(("relative", "ovr"), multiclass=multiclass)
        check_one_of(("global", "local"), sync=sync)
        self.boxcox_lambda = boxcox_lambda
        self.lambda_period = lambda_period
        self.clip = clip
        self.tail = tail
        self.multiclass = multiclass
        self.sync = sync
        self._seed = global_seed()

    def per_sample(
        self,
        predictions: Tensor,
        targets: Tensor,
        *,
        epoch: int = 0,
        step: int = 0,
        micro_batch: int = 0,
        kept: Tensor | None = None,
        **needs: Any,
    ) -> Tensor:
        """Return each row's slopes times margins, (B,); in evaluation mode its cross-entropy."""
        logits = two_class_logits(predictions)
        check_logits(self, logits)
        check_labels(self, logits, targets)
        if not self.training:
            return F.cross_entropy(logits, targets, reduction="none")
        # scores are one binary problem, not one for each of the classes 0 and 1
        if self.multiclass == "ovr" and logits is predictions:
            margins = logits * (2 * F.one_hot(targets, logits.shape[1]) - 1)
        else:
            margins = relative_margins(logits, targets)
        ranked = margins.detach()
        if kept is not None:
            ranked = ranked.where(kept[:, None], torch.inf)
        generator = shared_generator(self._seed, step, "ensloss", ranked.device, micro_batch)
        return (self._slopes(ranked, self.lambda_at(epoch), generator) * margins).sum(1)

    def lambda_at(self, epoch: int) -> float:
        """Return the Box-Cox lambda of an epoch."""
        if self.lambda_period is None:
            return self.boxcox_lambda
        period = epoch // self.lambda_period
        generator = shared_generator(self._seed, period, "ensloss lambda")
        return 2 * float(torch.rand((), generator=generator)) - 1

    def _slopes(self, margins: Tensor, lam: float, generator: torch.Generator) -> Tensor:
        """Return slopes drawn for this rank's margins, of their shape (B, M)."""
        width = margins.shape[1]

        def draw(rows: int, generator: torch.Generator) -> Tensor:
            # always float32, so that a run in float64 meets the same losses
            draws = torch.randn(rows, width, generator=generator, device=margins.device)
            return draws.to(margins.dtype)

        def assign(margins: Tensor, draws: Tensor) -> Tensor:
            if self.multiclass == "relative":  # all columns are sorted together
                together = loss_slopes(
                    margins.flatten(), draws.flatten(), lam, self.clip, self.tail
                )
                return together.view_as(margins)
            return loss_slopes(margins, draws, lam, self.clip, self.tail)

        rows = len(margins)
        if self.sync == "local":
            return assign(margins, draw_for_global_batch(draw, rows, generator))
        everyone = gather(margins)
        return draw_for_global_batch(
            lambda rows, generator: assign(everyone, draw(rows, generator)), rows, generator
        )


def boxcox_inverse(x: Tensor, lam: float) -> Tensor:
    """Return ``max(1 + lam * x, 0) ** (1 / lam)``, or ``exp(x)`` for ``lam = 0``.

    Infinite, for negative ``lam``, where ``1 + lam * x`` is not positive.
    """
    if abs(lam) < 1e-8:
        return x.exp()
    return ((lam * x).clamp(min=-1).log1p() / lam).exp()


def loss_slopes(margins: Tensor, draws: Tensor, lam: float, clip: float, tail: bool) -> Tensor:
    """Return negative slopes that rise with the margins, as those of a convex loss do.

    Args:
        margins: (N,), or (N, C) with each column sorted for itself; equal ones keep their order.
            One that is infinite is left out, with the draw in its place.
        draws: Standard normal numbers of the same shape; which margin they belong to does not
            matter.
        lam: Parameter of ``boxcox_inverse``, which makes the draws positive.
        clip: Steepest slope.
        tail: Whether to divide the slope at a margin z > 1 by z.

    Returns:
        Of the shape of ``margins``.
    """
    draws = draws.where(margins < torch.inf, -torch.inf)  # whose slope, 0, is the last one too
    slopes = (-boxcox_inverse(draws, lam)).clamp(min=clip).sort(dim=0).values
    matched = torch.empty_like(margins).scatter_(0, margins.argsort(dim=0, stable=True), slopes)
    if tail:
        matched = torch.where(margins > 1, matched / margins, matched)
    return matched - LEAST_SLOPE


def relative_margins(logits: Tensor, targets: Tensor) -> Tensor:
    """Return ``f_y - f_k`` for every k other than y, in the order of k; shape (B, K - 1)."""
    label = targets[:, None]
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= label)
    return logits.gather(1, label) - logits.gather(1, others)

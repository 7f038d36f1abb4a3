"""Robust self-training: labels for a few rows, the model's own for the others, made robust."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from framework.attacks.attack import Forward, under_attack
from framework.attacks.wasserstein import Cost, moved_cost, penalized_ascent
from framework.distributed.collectives import all_reduce_sum, world_size
from framework.losses.comp_sum import CompSumLoss
from framework.losses.loss import ClassificationLoss, check_labels, check_logits
from framework.losses.wasserstein_robust import (
    Inner,
    distance_to_errors,
    linear_weight,
    robust_zero_one,
)
from framework.utilities.checks import check_at_least, check_one_of, check_positive
from framework.utilities.precision import at_least_float32


class RobustSelfTrainingLoss(ClassificationLoss):
    r"""A robust loss of labeled rows, and of unlabeled ones under the model's own labels (RSS).

    .. math:: \frac1m \sum_i \phi_\gamma(x_i, y_i) + \frac\lambda n \sum_j
        \phi_{\gamma'}(x'_j, h(x'_j)), \qquad
        \phi_\gamma(x, y) = \sup_z \ell(z, y) - \gamma c(z, x)

    Rows of the label -100 are the unlabeled :math:`x'_j`, and h is the predicted class, through
    which no gradient flows. A robust loss is small only far from the decision boundary, so that the
    second mean pushes the boundary out of dense regions; unlabeled rows may be of a somewhat other
    domain. :math:`\gamma` is a price: larger is less robust.

    With ``inner='ascent'``, for any model, :math:`\ell` is ``base`` and the supremum is approached
    by ``penalized_ascent``; pseudo-labels and ascent see the model in evaluation mode. With
    ``inner='closed_form_linear'``, for models that are linear in their inputs (``backbone: mlp``
    with ``widths: []``), :math:`\ell` is the 0-1 loss and the supremum exact: a ramp of the
    distance to the boundary, for two classes and for more.

    The means are over the global batch, over ranks too, and one without rows is 0. The objective is
    not convex, and poor starts stay poor: ``warmup_epochs`` trains on the labels alone first, on
    their robust loss. With the closed form rows that are classified wrongly have no slope, and with
    a squared cost neither has a model of zeros: begin with the mean of the labeled rows, say, or
    with weights that cross-entropy trained. Large ``lam`` lets the boundary ignore the labels. In
    evaluation mode unlabeled rows are ignored, and with the ascent the loss is ``base`` of the
    labeled ones.

    Shapes: predictions (B, K) logits, K >= 2; targets (B,) int64, -100 where there is no label;
    ``inputs`` (B, ...); ``forward`` the network itself, and not what wraps it for DDP; returns a
    scalar, or (B,) values. Those of labeled rows are
    :math:`\phi_\gamma`; those of unlabeled ones have their weight in them, so that the sum over all
    rows, divided by the number m of labeled ones, is the loss.

    Paper: Saberi, Najafi, Heidari, Movasaghinia, Motahari, Khalaj, *Out-Of-Domain Unlabeled Data
    Improves Generalization*, ICLR 2024, arXiv:2310.00027. Its repository has no code; steps and
    step size follow Sinha et al., arXiv:1710.10571.

    Cost: with the ascent ``steps`` forward and backward passes and three forward passes more than
        cross-entropy; with the closed form a forward and K backward passes of a single row.
    Use it for: few labels beside many unlabeled rows, also of a somewhat other domain.

    Args:
        base: Loss of the ascent, one that needs predictions and labels only; default
            cross-entropy.
        gamma: Price γ of moving a labeled row, in units of the inputs; larger is less robust.
        gamma_u: Price γ' of moving an unlabeled row.
        lam: Weight λ of the unlabeled rows' mean.
        inner: Solver of the supremum: ``'ascent'`` or ``'closed_form_linear'``.
        steps: Steps of the ascent; 0 for plain self-training.
        step_size: Size of a step of the ascent; default 1 / (2 γ), or half of that for ``'l2sq'``.
        cost: Cost of moving a row, to be multiplied by its price: ``'half_l2sq'``, half the square
            of the distance, ``'l2sq'``, the square, or, with the closed form, ``'l2'``, the
            distance.
        warmup_epochs: Number of epochs at the start in which unlabeled rows do not count.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``; a mean is that of the
            labeled rows, plus ``lam`` times that of the others.

    Raises:
        ValueError: an argument out of its range, a ``base`` that needs more, the cost ``'l2'`` with
            the ascent, a model that is not linear with the closed form, or predictions or targets
            of another shape.

    Example:
        >>> import torch
        >>> from framework.losses import RobustSelfTrainingLoss
        >>> model, x = torch.nn.Linear(4, 3), torch.randn(4, 4)
        >>> loss = RobustSelfTrainingLoss(gamma=4.0, gamma_u=4.0, steps=5)
        >>> label = torch.tensor([0, -100, 2, -100])
        >>> loss(model(x), label, inputs=x, forward=model, epoch=0).backward()
    """

    needs: ClassVar[tuple[str, ...]] = ("inputs", "forward", "epoch")
    soft_targets: ClassVar[bool] = False

    def __init__(
        self,
        base: ClassificationLoss | None = None,
        gamma: float = 1.0,
        gamma_u: float = 1.0,
        lam: float = 1.0,
        inner: Inner = "ascent",
        steps: int = 15,
        step_size: float | None = None,
        cost: Cost = "half_l2sq",
        warmup_epochs: int = 0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        check_positive(gamma=gamma, gamma_u=gamma_u, step_size=step_size)
        check_at_least(0, lam=lam, steps=steps, warmup_epochs=warmup_epochs)
        check_one_of(get_args(Inner), inner=inner)
        check_one_of(get_args(Cost), cost=cost)
        if inner == "ascent" and cost == "l2":
            raise ValueError(
                "cost='l2' has no ascent, as a loss may outgrow it without bound: use 'half_l2sq' "
                "or 'l2sq', or inner='closed_form_linear' for a linear model."
            )
        if base is not None and (base.needs or base.batch_coupled):
            raise ValueError(
                f"base must be a loss of predictions and labels alone, and {type(base).__name__} "
                f"needs {', '.join(base.needs) or 'the whole batch'}: use CompSumLoss."
            )
        self.base = CompSumLoss() if base is None else base
        self.gamma = gamma
        self.gamma_u = gamma_u
        self.lam = lam
        self.inner = inner
        self.steps = steps
        self.step_size = step_size
        self.cost: Cost = cost
        self.warmup_epochs = warmup_epochs
        self._is_linear = False

    def lam_at(self, epoch: int) -> float:
        """Return the weight of the unlabeled rows' mean in an epoch."""
        return self.lam if self.training and epoch >= self.warmup_epochs else 0.0

    def kept(self, targets: Tensor) -> Tensor | None:
        """Return what a mean is divided by: the labeled rows, or all where none is labeled."""
        labeled = super().kept(targets)
        if labeled is None or not self.training:
            return labeled
        return labeled | (all_reduce_sum(labeled.sum()) == 0)

    def forward(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Look for the worst inputs and predict there, then compute as any loss.

        Predictions at the worst inputs are made here, in the precision and mode of those given.
        """
        # what is missing or does not fit is refused by the base class
        fits = not self.missing(needs) and len(predictions) == len(targets)
        if fits and self.inner == "closed_form_linear":
            check_logits(self, predictions)
            needs["slope"] = linear_weight(needs["forward"], needs["inputs"])
        elif fits and self.training:
            check_logits(self, predictions)
            check_labels(self, predictions, targets)
            needs |= self._ascend(targets, needs["inputs"], needs["forward"])
        return super().forward(predictions, targets, **needs)

    def _ascend(self, targets: Tensor, inputs: Tensor, forward: Forward) -> dict[str, Tensor]:
        """Return the pseudo-labels, the predictions at the worst inputs, and what these cost."""
        price = self._price(targets, at_least_float32(inputs).dtype)
        with under_attack(forward, inputs.device):
            x = at_least_float32(inputs.detach())
            with torch.no_grad():
                pseudo = forward(x.to(inputs.dtype)).argmax(1)
            labels = targets.where(targets != self.ignore_index, pseudo)

            def losses(z: Tensor) -> Tensor:
                logits = at_least_float32(forward(z.to(inputs.dtype)))
                return self.base.per_sample(logits, labels)

            worst = penalized_ascent(
                losses, x, price, steps=self.steps, step_size=self.step_size, cost=self.cost
            )
            paid = price * moved_cost(worst, x, self.cost)
        if not self.steps:
            return {"pseudo": pseudo}
        return {"pseudo": pseudo, "moved": forward(worst.to(inputs.dtype)), "paid": paid}

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the reduced loss."""
        check_logits(self, predictions)
        check_labels(self, predictions, targets)
        if self.inner == "closed_form_linear":
            self._check_linear(predictions, needs["inputs"], needs["slope"])
        labeled = targets != self.ignore_index
        lam = self.lam_at(needs["epoch"])
        counted = labeled if lam == 0 else torch.ones_like(labeled)
        # 0 times the slope of a prediction that is NaN would be NaN
        given = predictions.where(counted[:, None], 0)
        labels = targets.where(labeled, needs.get("pseudo", given.detach().argmax(1)))
        values = self.per_sample(given, labels, labeled=labeled, **needs)
        values = (values * self._row_weight(labeled, lam).to(values.dtype)).where(counted, 0)
        if self.reduction == "none":
            return values
        total = values.sum() if len(values) else predictions.sum() * 0.0
        if self.reduction == "sum":
            return total
        kept = self.kept(targets)
        assert kept is not None
        if not self.training:
            return total / kept.sum().clamp(min=1)
        # averaged over ranks as DDP does, this is the mean over the global batch
        return total * (world_size() / all_reduce_sum(kept.sum()).clamp(min=1))

    def per_sample(
        self,
        predictions: Tensor,
        targets: Tensor,
        *,
        labeled: Tensor | None = None,
        moved: Tensor | None = None,
        paid: Tensor | None = None,
        slope: Tensor | None = None,
        **needs: Any,
    ) -> Tensor:
        """Return the robust loss of every row, (B,), given the predictions where it is worst."""
        if slope is not None:
            prices = torch.full_like(predictions[:, 0], self.gamma)
            if labeled is not None:
                prices = prices.where(labeled, self.gamma_u)
            distance = distance_to_errors(predictions, targets, slope.to(predictions.dtype))
            return robust_zero_one(distance, prices, self.cost)
        if moved is None or paid is None:
            return self.base.per_sample(predictions, targets)
        return self.base.per_sample(moved, targets) - paid

    def _price(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        prices = torch.full(targets.shape, self.gamma, dtype=dtype, device=targets.device)
        return prices.where(targets != self.ignore_index, self.gamma_u)

    def _row_weight(self, labeled: Tensor, lam: float) -> Tensor:
        """Return by how much each row counts in a sum that is divided by the labeled rows."""
        if lam == 0:
            return torch.ones_like(labeled)
        counts = all_reduce_sum(torch.stack([labeled.sum(), (~labeled).sum()])).double()
        ratio = torch.where(counts[0] > 0, counts[0] / counts[1].clamp(min=1), 1.0)
        return torch.where(labeled, 1.0, lam * ratio)

    def _check_linear(self, predictions: Tensor, inputs: Tensor, slope: Tensor) -> None:
        """Refuse a model that is not linear, once, as a GPU waits for it."""
        if self._is_linear or not len(predictions):
            return
        weight = slope.detach().to(predictions.dtype)
        # what is left is the offset, the same in all rows
        rest = predictions.detach() - inputs.flatten(1).to(predictions.dtype) @ weight.T
        spread, largest = (rest - rest[:1]).abs().amax(), predictions.detach().abs().amax()
        if bool(spread > 0.01 * largest + 1e-4):
            raise ValueError(
                f"{type(self).__name__}: the closed form is that of a linear model, and this one "
                "is not: use inner='ascent', or a linear model such as backbone mlp with widths []."
            )
        self._is_linear = True

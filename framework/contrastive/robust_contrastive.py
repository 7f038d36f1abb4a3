"""The robust contrastive loss of iSogCLR, with a temperature for every sample."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from framework.contrastive.individual_contrast import (
    AnchorTerms,
    individual_contrast,
    temperature_step,
)
from framework.contrastive.paired_views import PairedViews, paired_views
from framework.distributed.collectives import all_reduce_sum_with_grad, gather
from framework.distributed.sample_state import SampleState
from framework.losses.loss import Loss
from framework.utilities.checks import (
    check_at_least,
    check_interval,
    check_one_of,
    check_positive,
)

Mode = Literal["unimodal", "bimodal"]


class RobustContrastiveLoss(Loss):
    r"""Contrast of views in which every sample has a temperature of its own, which is learned.

    The temperature of a sample is the dual variable of a worst case over its negatives, weighted
    within a KL divergence of rho from even weights: one with many similar negatives, of a frequent
    class, ends at a high temperature, which keeps them together; a rare one at a low one. The
    normalizer of a sample is a moving average over steps, so that small batches serve; see
    ``individual_contrast`` for the equations. Without ``learn_temperature`` this is SogCLR.

    With ``mode='unimodal'`` both views of a sample are anchors, which share temperature and
    average, and their negatives are both views of all other samples. With ``'bimodal'`` (images and
    texts) each mode has its own, and the negatives are the other mode's other samples. A row of the
    anchor's own index is never its negative.

    ``memory``, the same on every rank, has a row of log s, momentum and temperature per sample (and
    mode), NaN before its first visit. In training mode all ranks must call the loss equally often,
    with an empty batch if need be; of a sample that is in a batch twice, the mean is remembered. In
    evaluation mode, where ``index`` may belong to another data set, it is neither read nor written.

    The value is that of the surrogate, which may be negative and rise while the objective falls.

    Shapes: predictions (B, d), the embeddings of first views, of any length; targets (B, d), those
    of the second views of the same samples, with gradient; index (B,) int64; returns a scalar.

    Paper: Qiu et al., *Not All Semantics are Created Equal: Contrastive Self-supervised Learning
    with Automatic Temperature Individualization*, ICML 2023, arXiv:2305.11965; SogCLR: Yuan et al.,
    arXiv:2202.12387. The paper's 1/n in the slope is part of eta, as in the authors' code. That
    code has the similarity in the place of h (``center_positive=False``), and starts the average at
    gamma times the first value instead of at the value; here the paper is followed.

    Cost: O(B² d) for the similarities of a global batch of B, as NT-Xent; 12 bytes per sample and
    mode.

    Use it for: learning without labels from classes of very different frequency, or small batches.

    Args:
        mode: ``'unimodal'`` for two views of one kind, ``'bimodal'`` for two kinds.
        temperature: Temperature of a sample at its first visit; 0.01 for images and texts.
        min_temperature: Smallest temperature; 0.005 for images and texts.
        max_temperature: Largest temperature; LibAUC takes 0.05 for images and texts.
        rho: Radius of the divergence; the paper advises 0.1 to 0.5 for images, 6 to 8 for images
            and texts.
        gamma: Share of a batch in the moving average, in (0, 1]; 1 keeps none.
        gamma_epochs: Epochs in which the share falls from 1 to ``gamma``, by a cosine; None for a
            constant one.
        eta: Step size of the temperatures.
        beta: Share of a step's slope in the momentum of the temperatures.
        clip: Largest size of a slope; None for any; 5 for images and texts.
        learn_temperature: Whether temperatures are learned.
        center_positive: Whether the positive's similarity is subtracted in the average, as in the
            paper.

    Raises:
        ValueError: An argument is out of its range, the embeddings have different shapes, or index
            has another shape.
        RuntimeError: In training mode without ``setup``.

    Example:
        >>> import torch
        >>> from framework.contrastive import RobustContrastiveLoss
        >>> loss = RobustContrastiveLoss(temperature=0.5)
        >>> loss.setup(num_samples=100, num_classes=None, device=torch.device("cpu"))
        >>> first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> second = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> loss(first, second, index=torch.tensor([7, 42]))
        tensor(-0.2967)
        >>> loss.temperatures()[[7, 42, 43]].squeeze(1)
        tensor([0.4971, 0.4971,    nan])
    """

    needs: ClassVar[tuple[str, ...]] = ("index", "epoch")
    batch_coupled: ClassVar[bool] = True
    monitorable: ClassVar[bool] = False

    def __init__(
        self,
        mode: Mode = "unimodal",
        temperature: float = 0.1,
        min_temperature: float = 0.05,
        max_temperature: float = 1.0,
        rho: float = 0.3,
        gamma: float = 0.8,
        gamma_epochs: int | None = None,
        eta: float = 0.03,
        beta: float = 0.5,
        clip: float | None = 3.0,
        learn_temperature: bool = True,
        center_positive: bool = True,
    ) -> None:
        super().__init__()
        check_one_of(get_args(Mode), mode=mode)
        check_positive(temperature=temperature, min_temperature=min_temperature)
        check_at_least(min_temperature, max_temperature=max_temperature)
        check_at_least(0, rho=rho, eta=eta)
        check_interval("(0, 1]", gamma=gamma, beta=beta)
        if gamma_epochs is not None:
            check_at_least(1, gamma_epochs=gamma_epochs)
        if clip is not None:
            check_positive(clip=clip)
        if learn_temperature:
            allowed = f"[{min_temperature}, {max_temperature}]"
            check_interval(allowed, temperature=temperature)
        self.mode: Mode = mode
        self.temperature = temperature
        self.bounds = (min_temperature, max_temperature)
        self.rho = rho
        self.gamma = gamma
        self.gamma_epochs = gamma_epochs
        self.eta = eta
        self.beta = beta
        self.clip = clip
        self.learn_temperature = learn_temperature
        self.center_positive = center_positive
        self.memory: SampleState | None = None
        """Row of (log s, momentum, temperature) of every sample, (1 or 2 modes, 3)."""

    def setup(self, num_samples: int, num_classes: int | None, device: torch.device) -> None:
        """Allocate the memory of every training sample."""
        modes = 1 if self.mode == "unimodal" else 2
        self.memory = SampleState(num_samples, (modes, 3), fill=math.nan, device=device)

    def missing(self, needs: Collection[str]) -> list[str]:
        """Return what the loss needs and was not given; a constant share needs no epoch."""
        missing = super().missing(needs)
        return missing if self.gamma_epochs is not None else [n for n in missing if n != "epoch"]

    def share(self, epoch: int) -> float:
        """Return the share gamma of a batch in the moving average, in an epoch from 0."""
        if self.gamma_epochs is None:
            return self.gamma
        done = min(1.0, epoch / self.gamma_epochs)
        return self.gamma + (1 - self.gamma) * (1 + math.cos(math.pi * done)) / 2

    def temperatures(self, index: Tensor | None = None) -> Tensor:
        """Return the temperatures of samples, NaN before their first visit.

        Args:
            index: Samples (B,) int64; default all N.

        Returns:
            (B, 1), or (B, 2) of two modes.
        """
        memory = self._memory()
        if index is None:
            index = torch.arange(memory.num_samples)
        return memory.read(index)[:, :, 2]

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the surrogate, a scalar; in training mode update the memory."""
        index = needs["index"]
        if index.shape != predictions.shape[:1]:
            raise ValueError(
                f"index must have one position for each of the {len(predictions)} rows, got the "
                f"shape {tuple(index.shape)}."
            )
        views = paired_views(predictions, targets)
        same = index[:, None] == gather(index, views.counts)[None, :]
        old = self._remembered(index, predictions)
        log_average, _, temperature = old.expand(-1, 2, -1).unbind(2)
        terms = self._contrast(
            views, same, temperature, log_average, self.share(needs.get("epoch", 0))
        )
        if self.training:
            self._remember(index, old, terms, same, views)
        return all_reduce_sum_with_grad(terms.loss.sum()) / max(1, views.rows)

    def _contrast(
        self,
        views: PairedViews,
        same: Tensor,
        temperature: Tensor,
        log_average: Tensor,
        gamma: float,
    ) -> AnchorTerms:
        """Return the terms of first views and then of second views, (2 B_r,) each."""
        others = ~same
        if self.mode == "unimodal":
            candidates = torch.cat([views.all_first, views.all_second])
            similarity = torch.cat([views.first, views.second]) @ candidates.T
            others = others.repeat(1, 2)
        else:
            similarity = torch.cat(
                [views.first @ views.all_second.T, views.second @ views.all_first.T]
            )
        return individual_contrast(
            similarity,
            (views.first * views.second).sum(1).repeat(2),
            others.repeat(2, 1),
            # all first views and then all second ones
            temperature.T.flatten(),
            log_average.T.flatten(),
            gamma,
            self.rho,
            self.center_positive,
        )

    def _memory(self) -> SampleState:
        if self.memory is None:
            raise RuntimeError(
                "RobustContrastiveLoss remembers every training sample: call "
                "setup(num_samples, None, device) first."
            )
        return self.memory

    def _remembered(self, index: Tensor, embeddings: Tensor) -> Tensor:
        """Return the rows of the memory (B_r, modes, 3), as they are at a first visit where new."""
        if self.training:
            rows = self._memory().read(index).to(embeddings.dtype)
        else:
            rows = embeddings.new_full((len(index), 1, 3), math.nan)
        log_average, momentum, temperature = rows.unbind(2)
        momentum = momentum.nan_to_num(0.0)
        temperature = temperature.nan_to_num(self.temperature)
        return torch.stack([log_average, momentum, temperature], 2)

    @torch.no_grad()
    def _remember(
        self, index: Tensor, old: Tensor, terms: AnchorTerms, same: Tensor, views: PairedViews
    ) -> None:
        modes = old.shape[1]
        log_average = terms.log_average.view(2, -1).T
        slope = terms.slope.view(2, -1).T
        if modes == 1:
            log_average = log_average.logsumexp(1, keepdim=True) - math.log(2)
            slope = slope.mean(1, keepdim=True)
        # rows of one sample are to leave their mean, in whatever order they come
        everyone = gather(torch.stack([log_average, slope], 1), views.counts)
        count = same.sum(1, keepdim=True).to(slope.dtype)
        slope = same.to(slope.dtype) @ everyone[:, 1] / count
        found = torch.where(same[:, :, None], everyone[None, :, 0], -torch.inf)
        log_average = found.logsumexp(1) - count.log()
        momentum, temperature = old[:, :, 1], old[:, :, 2]
        if self.learn_temperature:
            temperature, momentum = temperature_step(
                temperature, momentum, slope, self.eta, self.beta, self.clip, self.bounds
            )
        new = torch.stack([log_average, momentum, temperature], 2)
        compared = terms.compared.view(2, -1).T[:, :modes, None]
        self._memory().write(index, torch.where(compared, new, old))

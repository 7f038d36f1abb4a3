"""UNPG: similarities of a batch's own embeddings as further negatives of a softmax."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.distributed.collectives import gather, gather_with_grad, rows_per_rank
from framework.embedding.box_whisker import box_whisker_bounds
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.precision import at_least_float32


class UNPG(nn.Module):
    """Negatives from pairs of embeddings of different classes, beside those from class weights.

    The log-sum-exp of the scaled cosines of all such pairs of the global batch is one scalar that
    a softmax head adds to the denominator of each of its rows. Outliers by the rule of the box and
    the whiskers, such as two pictures of one person under two names, are left out. Takes memory
    for B^2 numbers, B the rows of all ranks, where the published code takes it for B^3; as there,
    each row has the pairs of all others for its negatives, also those that it is no part of.

    Paper: Unified Negative Pair Generation toward Well-discriminative Feature Space for Face
    Recognition. arXiv:2203.11593

    Args:
        scale: Factor of the cosines; default that of the call, which is the head's.
        whisker: Length of a whisker as a multiple of the distance of the quartiles; None keeps
            every pair.

    Raises:
        ValueError: ``scale`` is not positive, ``whisker`` is negative, or a call has no scale.

    Example:
        >>> import torch
        >>> from framework.embedding.unpg import UNPG
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> negatives, logs = UNPG()(x, torch.tensor([0, 0, 1, 1]), scale=10.0)
        >>> round(negatives.item(), 4)
        6.005

        A softmax head takes them, in any loop:
        ``loss, logs = head(x, y, negatives=unpg(x, y, head.scale)[0])``.
    """

    def __init__(self, scale: float | None = None, whisker: float | None = 1.5) -> None:
        super().__init__()
        check_positive(scale=scale)
        check_at_least(0, whisker=whisker)
        self.scale = scale
        self.whisker = whisker

    def forward(
        self, x: Tensor, y: Tensor, scale: float | Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the log-sum-exp of the negatives, and what is known of them.

        Args:
            x: Embeddings of this rank (B_r, d), of any length.
            y: Classes (B_r,) int64, the same on all ranks.
            scale: Factor of the cosines where the module has none of its own.

        Returns:
            A scalar, the same on every rank, which is minus infinity without a negative pair and
            then passes no gradient; and ``unpg_negatives``, ``unpg_kept``, ``unpg_mean`` and
            ``unpg_max``: number of the pairs that were kept, their fraction, their mean and their
            greatest cosine.
        """
        scale = scale if self.scale is None else self.scale
        if scale is None:
            raise ValueError("UNPG has no scale: give it one, or call it with that of the head.")
        counts = rows_per_rank(len(x), x.device)
        y = gather(y, counts)
        with torch.autocast(device_type=x.device.type, enabled=False):
            unit = F.normalize(gather_with_grad(at_least_float32(x), counts), dim=-1)
            cosines = unit @ unit.T
            negative = (y[:, None] != y).triu(1)
            kept = negative
            if self.whisker is not None:
                low, high = box_whisker_bounds(cosines, self.whisker, negative)
                kept = negative & (cosines >= low) & (cosines <= high)
            some = kept.any()
            # of minus infinities alone the gradient would be 0 / 0
            fill = torch.where(some, -torch.inf, 0.0).to(cosines)
            total = torch.where(kept, scale * cosines, fill).flatten().logsumexp(0)
            total = torch.where(some, total, -torch.inf)
        return total, _facts(cosines.detach(), kept, negative)


def _facts(cosines: Tensor, kept: Tensor, negative: Tensor) -> dict[str, Tensor]:
    number = kept.sum()
    of = number.clamp(min=1)
    largest = torch.where(kept, cosines, -torch.inf).amax() if len(cosines) else cosines.sum()
    return {
        "unpg_negatives": number.to(cosines.dtype),
        # without a pair nothing was thrown away
        "unpg_kept": torch.where(number > 0, number / negative.sum().clamp(min=1), 1.0),
        "unpg_mean": torch.where(kept, cosines, 0.0).sum() / of,
        "unpg_max": torch.where(number > 0, largest, 0.0),
    }

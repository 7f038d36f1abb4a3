"""1:1 verification of templates whose images are embedded a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.embedding.metrics.pair_scores import score_values
from framework.embedding.metrics.roc import checked_rates
from framework.embedding.metrics.row_order import first_of_each
from framework.embedding.metrics.templates import pool_templates, template_scores
from framework.embedding.pairs import Pairs
from framework.metrics.row_metric import RowMetric
from framework.utilities.checks import check_at_least


class TemplateVerification(RowMetric):
    """TAR@FAR of pairs of templates, as of IJB-B and IJB-C.

    An image that comes twice counts once, and images are ordered by their number, so that batches
    and ranks do not matter. ``compute`` returns ``tar@far=1e-4`` and so on at the rates that these
    pairs can measure, and ``curves`` for a figure. What ``pool_templates`` is told moves the values
    by tenths of a percent: it belongs to every number.

    Args:
        embedding_dim: Width d of an embedding.
        pairs: Pairs of numbers of templates.
        far: False acceptance rates at which the true one is told.
        norm_score: Whether an image counts by the norm of its embedding.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``embedding_dim`` below 1, or a rate outside of [0, 1].

    Example:
        >>> same = torch.tensor([True, False])
        >>> pairs = Pairs(torch.tensor([1, 1]), torch.tensor([2, 3]), same, num_folds=1)
        >>> metric = TemplateVerification(embedding_dim=2, pairs=pairs, far=(0.0,))
        >>> images = torch.tensor([[1.0, 0.0], [0.8, 0.1], [0.0, 1.0]])
        >>> index = torch.arange(3)
        >>> metric.update(images, template=torch.tensor([1, 2, 3]), media=index, index=index)
        >>> metric.compute()["tar@far=0"].item()
        1.0
    """

    def __init__(
        self,
        embedding_dim: int,
        pairs: Pairs,
        far: Sequence[float] = (1e-3, 1e-4, 1e-5),
        norm_score: bool = True,
        **kwargs: Any,
    ) -> None:
        check_at_least(1, embedding_dim=embedding_dim)
        whole = torch.zeros(0, dtype=torch.int64)
        empty = {
            "embedding": torch.zeros(0, embedding_dim),
            "faceness": torch.zeros(0),
            "template": whole,
            "media": whole,
            "index": whole,
        }
        super().__init__(empty, **kwargs)
        self.pairs = pairs
        self.far = checked_rates(far)
        self.norm_score = norm_score

    def update(
        self,
        embedding: Tensor,
        template: Tensor,
        media: Tensor,
        index: Tensor,
        faceness: Tensor | None = None,
    ) -> None:
        """Add a batch of B images.

        Args:
            embedding: (B, d), of any norm; with mirrors the sum of both.
            template: Number of the template of each image, (B,) int64.
            media: Number of its medium, (B,) int64.
            index: Number of the image in its list, (B,) int64.
            faceness: How certainly each image shows a face, (B,); by default all alike.
        """
        embedding = embedding.detach().float()
        rows = {
            "embedding": embedding,
            "faceness": embedding.new_ones(len(embedding))
            if faceness is None
            else faceness.float(),
            "template": template,
            "media": media,
            "index": index,
        }
        for name, value in rows.items():
            getattr(self, name).append(value)

    def compute(self) -> dict[str, Any]:
        """Return the values by name; without pairs none."""
        states = [self.joined(name, self.device) for name in self._empty]
        rows = first_of_each(states[-1])
        embedding, faceness, template, media, _ = (state[rows] for state in states)
        templates = pool_templates(
            embedding, template, media, norm_score=self.norm_score, faceness=faceness
        )
        first, second, same = (
            part.to(self.device) for part in (self.pairs.first, self.pairs.second, self.pairs.same)
        )
        scores, known = template_scores(templates, first, second)
        return score_values(scores, same[known], self.far)

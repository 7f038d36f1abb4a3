"""Sums of a layer's features over a data set, and what they say of its representation."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_max, all_reduce_sum
from framework.metrics.class_mean_cosine import mean_pair_cosine
from framework.metrics.effective_rank import effective_rank_of
from framework.metrics.feature_moments import centered_singular_values
from framework.metrics.stable_rank import energy_rank_of, stable_rank_of


class LayerFeatures:
    """Adds features up batch by batch, in float64, without keeping them.

    Of images (B, K, H, W) and the like the features are the means over positions, of sequences
    (B, T, K) those over T. Labels are optional; rows with a negative label count for the ranks
    alone.
    """

    def __init__(self) -> None:
        self.total = torch.zeros(0, dtype=torch.float64)
        self.outer = torch.zeros(0, 0, dtype=torch.float64)
        self.rows = 0
        # sums (C, K) and rows (C,) of classes
        self.class_total = torch.zeros(0, 0, dtype=torch.float64)
        self.class_rows = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def add(self, features: Tensor, label: Tensor | None = None) -> None:
        """Add the features of B rows, and their labels (B,) int64 where there are any."""
        z = _as_rows(features).double()
        if not self.total.numel():
            self._make(z.shape[1], z.device)
        self.total += z.sum(0)
        self.outer += z.mT @ z
        self.rows += len(z)
        if label is None or len(label) != len(z):
            return
        known = label >= 0
        label = label[known]
        if len(label):
            self._widen(int(label.max()) + 1)
        self.class_total.index_add_(0, label, z[known])
        self.class_rows += label.bincount(minlength=len(self.class_rows))

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics over all ranks by name; none without any row.

        ``effective_rank``, ``stable_rank``, and ``energy_rank``, the number of directions with 99 %
        of the energy, are of the centered features; ``class_cosine`` is the mean cosine between
        the means of two classes.
        """
        device = self.total.device
        sizes = torch.tensor([len(self.total), len(self.class_rows)], device=device)
        width, classes = all_reduce_max(sizes).tolist()
        if not self.total.numel():
            self._make(width, device)
        self._widen(classes)
        rows = torch.tensor([self.rows], dtype=torch.float64, device=device)
        parts = [self.total, self.outer, self.class_total, self.class_rows.double(), rows]
        packed = all_reduce_sum(torch.cat([part.flatten() for part in parts]))
        found = packed.split([part.numel() for part in parts])
        total, outer, means, counts, rows = found
        if not width or not rows:
            return {}
        values = centered_singular_values(total, outer.view(width, width), rows[0])
        metrics = {
            "effective_rank": effective_rank_of(values),
            "stable_rank": stable_rank_of(values),
            "energy_rank": energy_rank_of(values),
        }
        metrics = {name: value.float() for name, value in metrics.items()}
        if int((counts > 0).sum()) > 1:
            metrics["class_cosine"] = mean_pair_cosine(means.view(classes, width))
        return metrics

    def _make(self, width: int, device: torch.device) -> None:
        options = {"dtype": torch.float64, "device": device}
        self.total = torch.zeros(width, **options)  # type: ignore[call-overload]
        self.outer = torch.zeros(width, width, **options)  # type: ignore[call-overload]
        self.class_total = torch.zeros(len(self.class_rows), width, **options)  # type: ignore[call-overload]
        self.class_rows = self.class_rows.to(device)

    def _widen(self, classes: int) -> None:
        missing = classes - len(self.class_rows)
        if missing > 0:
            width = len(self.total)
            more = self.class_total.new_zeros(missing, width)
            self.class_total = torch.cat([self.class_total, more])
            self.class_rows = torch.cat([self.class_rows, self.class_rows.new_zeros(missing)])


def _as_rows(features: Tensor) -> Tensor:
    """Return features (B, K) of a layer's output or input of any shape."""
    if features.ndim == 3:
        return features.mean(1)
    if features.ndim > 3:
        return features.flatten(2).mean(2)
    return features.unsqueeze(1) if features.ndim == 1 else features

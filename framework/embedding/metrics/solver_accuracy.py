"""Accuracy of several few-shot solvers on the same episodes, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.embedding.metrics.few_shot import few_shot_score
from framework.embedding.metrics.row_order import first_of_each
from framework.metrics.row_metric import RowMetric


class SolverAccuracy(RowMetric):
    """Mean accuracy over episodes of several solvers, each with the best of its settings.

    Episodes are told by their number, so that ranks and an episode that comes twice do not matter.
    ``compute`` returns, for a solver S with its best setting, ``accuracy@S``, half the width of its
    95 % interval ``ci95@S`` (1.96 s / sqrt(n)) and, where S has settings, the best one
    ``lambda@S``; of several also ``curve@S``, the accuracies of all.

    Args:
        settings: Settings that each solver was run with, by its name; none for one that has none.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> metric = SolverAccuracy({"near": (), "slk": (0.1, 0.5)})
        >>> right = torch.tensor([[0.5, 0.5, 0.75], [0.75, 0.5, 1.0]])
        >>> metric.update(right, index=torch.arange(2))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()
        ...  if value.numel() == 1 and not name.startswith("ci95")}
        {'accuracy@near': 0.625, 'accuracy@slk': 0.875, 'lambda@slk': 0.5}
    """

    higher_is_better = True

    def __init__(self, settings: Mapping[str, Sequence[float]], **kwargs: Any) -> None:
        empty = {"index": torch.empty(0, dtype=torch.int64), "accuracy": torch.empty(0, 0)}
        super().__init__(empty, **kwargs)
        self.run_with(settings)

    def run_with(self, settings: Mapping[str, Sequence[float]]) -> None:
        """Take other settings, before the first episode.

        Args:
            settings: Settings that each solver is run with, by its name.
        """
        self.settings = {name: tuple(values) for name, values in settings.items()}
        self.columns = [max(1, len(values)) for values in self.settings.values()]
        self._empty["accuracy"] = torch.empty(0, sum(self.columns))

    def update(self, accuracy: Tensor, index: Tensor) -> None:
        """Add episodes.

        Args:
            accuracy: Share of the queries that is right (E, C): every solver with its first
                setting, its second one, ..., then the next solver.
            index: Numbers of the episodes (E,) int64.
        """
        self.index.append(index.detach())  # type: ignore[operator, union-attr]
        self.accuracy.append(accuracy.detach().float())  # type: ignore[operator, union-attr]

    def compute(self) -> dict[str, Tensor]:
        """Return accuracy, interval and best setting of every solver."""
        index, accuracy = self.joined("index"), self.joined("accuracy")
        rows = accuracy[first_of_each(index)]
        values: dict[str, Tensor] = {}
        parts = rows.split(self.columns, dim=1)
        for (name, settings), part in zip(self.settings.items(), parts, strict=True):
            mean = part.double().mean(0)
            # rounding must not decide between settings that do the same; the first one wins
            best = int(mean.mul(1e9).round().argmax())
            score = few_shot_score(part[:, best])
            values[f"accuracy@{name}"] = score.accuracy.float()
            values[f"ci95@{name}"] = score.ci95.float()
            if settings:
                values[f"lambda@{name}"] = torch.tensor(settings[best])
            if len(settings) > 1:
                values[f"curve@{name}"] = mean.float()
        return values

"""Validation, test and prediction, the same for every domain and any number of ranks."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection

from framework.data.datasets import Batch
from framework.distributed.collectives import world_size
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.training.term_means import TermMeans


class EvaluationModule(LightningModule):
    """Runs a domain's metrics and losses over a validation or test set, and its predictions.

    A domain writes ``evaluate`` and, where it has them, ``make_metrics``, ``figures``
    and ``predict``, or ``predict_step`` where predictions are no columns.
    """

    predicts_rows = True
    """False if ``predict_step`` returns something else than columns with a row per sample."""

    def __init__(self) -> None:
        super().__init__()
        self._metrics = nn.ModuleDict()
        self._stage_means = {stage: TermMeans() for stage in ("val", "test")}
        self.metric_values: dict[str, Any] = {}
        """Every value of the latest evaluation, also those that are no scalars."""

    def evaluate(self, batch: Batch) -> Objectives | None:
        """Update ``metrics`` with a batch; terms that are returned are averaged and logged."""
        raise NotImplementedError(f"{type(self).__name__} defines no evaluation.")

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Return columns of the prediction file, each (B,) or (B, K)."""
        raise NotImplementedError(f"{type(self).__name__} defines no predictions.")

    def make_metrics(self) -> MetricCollection | None:
        """Return the metrics of an evaluation, named without a stage; called once per stage."""
        return None

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return named matplotlib figures of an evaluation's metric values."""
        return {}

    @property
    def has_metrics(self) -> bool:
        """Whether the metrics mean something yet; the same on every rank."""
        return True

    def setup_metrics(self) -> None:
        """Make the metrics of every stage, once."""
        for name in self._stage_means:
            metrics = self.make_metrics()
            if metrics is not None and name not in self._metrics:
                self._metrics[name] = metrics

    @property
    def stage(self) -> str:
        """``'val'`` or ``'test'`` while evaluating."""
        return "test" if self.trainer.testing else "val"

    @property
    def metrics(self) -> MetricCollection:
        """The metrics of the current evaluation."""
        return self._metrics[self.stage]  # type: ignore[return-value]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate a batch."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Evaluate a batch."""
        self._evaluate(batch)

    def _evaluate(self, batch: Batch) -> None:
        objectives = self.evaluate(batch)
        if objectives is None:
            return
        reduced = reduce_objectives(objectives)
        values = torch.stack([reduced.total, *reduced.terms.values()]).detach()
        names = ("loss", *reduced.terms)
        self._stage_means[self.stage].update(names, values / world_size(), reduced.rows)

    def on_validation_epoch_end(self) -> None:
        """Log metrics and mean losses."""
        self._log_evaluation()

    def on_test_epoch_end(self) -> None:
        """Log metrics and mean losses."""
        self._log_evaluation()

    def _log_evaluation(self) -> None:
        means = self._stage_means[self.stage]
        values: dict[str, Any] = dict(means.compute())
        means.reset()
        if self.stage in self._metrics and self.has_metrics:
            values |= self.metrics.compute()
            self.metrics.reset()
        self.metric_values = values
        if self.trainer.sanity_checking:
            # its few batches may lack a value, which would change the order of all that follow
            return
        scalars = {n: v for n, v in values.items() if isinstance(v, Tensor) and v.numel() == 1}
        self.log_dict({f"{self.stage}/{n}": v.float() for n, v in scalars.items()})

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the columns of ``predict`` and the index of each row."""
        columns = self.predict(batch)
        return {"index": batch["index"], **columns} if "index" in batch else columns

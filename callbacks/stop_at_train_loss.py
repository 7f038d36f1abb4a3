"""Ends a run at a training loss, so that runs are compared where they fit equally well."""

from __future__ import annotations

import sys
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason


class StopAtTrainLoss(EarlyStopping):
    """Ends training when the mean training loss of an epoch is at most a threshold.

    Optimizers are compared at equal training loss, not after equal steps, as what they reach is
    otherwise told by how far they came (arXiv:2507.12224 and arXiv:2312.03951); ``trimtab report
    RUNS --equal`` makes the table. All ranks stop at the same epoch; a run that was stopped and is
    resumed trains no further, unless by a lower threshold. A loss that is not finite ends the run,
    too.

    Args:
        threshold: Training loss at which the run ends.
        metric: Metric in the place of the mean training loss; one that begins with ``val/`` is
            looked at after each validation, another at each epoch's end.

    Raises:
        RuntimeError: Nothing logs the metric (at the first epoch's end).

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[StopAtTrainLoss(0.01)], logger=False)
    """

    # a loss at the threshold has reached it
    mode_dict = {"min": torch.le, "max": torch.ge}  # noqa: RUF012
    order_dict = {"min": "<=", "max": ">="}  # noqa: RUF012

    def __init__(self, threshold: float, metric: str = "train/loss_epoch") -> None:
        super().__init__(
            metric,
            mode="min",
            patience=sys.maxsize,
            stopping_threshold=threshold,
            check_on_train_epoch_end=not metric.startswith("val/"),
        )
        # Lightning takes every comparison but a strict one for that of a largest value
        self.best_score = torch.tensor(torch.inf)
        self.threshold = threshold
        self.metric = metric
        self._stopped_at: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what ``EarlyStopping`` keeps, and the threshold."""
        return {**super().state_dict(), "threshold": self.threshold}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on, and remember a threshold that was reached."""
        super().load_state_dict(state_dict)
        if self.stopping_reason == EarlyStoppingReason.STOPPING_THRESHOLD:
            self._stopped_at = state_dict["threshold"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further where a resumed run had reached the threshold."""
        if self._stopped_at is not None and self._stopped_at <= self.threshold:
            trainer.should_stop = True
        else:
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
            self.stopping_reason_message = None
        self._stopped_at = None

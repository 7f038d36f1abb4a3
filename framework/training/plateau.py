"""``ReduceLROnPlateau`` is stepped once for each value that was measured, before it is saved."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from framework.objectives.errors import IncompatibleError
from framework.utilities.lightning_internals import has_validated, measured_now


def plateau_config(schedule: ReduceLROnPlateau) -> dict[str, Any]:
    """Return what ``configure_optimizers`` says of a schedule that ``step_plateau`` steps.

    Lightning itself would step it after the checkpoint of an epoch, and once an epoch whether there
    was a validation or not.
    """
    return {"interval": "epoch", "frequency": sys.maxsize, "monitor": _monitor(schedule)}


def step_plateau(module: LightningModule, epoch_is_over: bool = False) -> None:
    """Step a schedule that waits for a metric, if this hook's batch or validation measured it.

    Raises:
        IncompatibleError: The metric is still unknown at an epoch's end.
    """
    schedule = module.lr_schedulers() if module.automatic_optimization else None
    if not isinstance(schedule, ReduceLROnPlateau):
        return
    trainer = module.trainer
    monitor, values = _monitor(schedule), trainer.callback_metrics
    if monitor in measured_now(trainer):
        module.lr_scheduler_step(schedule, values[monitor])
        return
    # a method with phases may have nothing to be judged by yet
    has_metrics = has_validated(trainer) and getattr(module, "has_metrics", True)
    if epoch_is_over and has_metrics and monitor not in values:
        raise IncompatibleError(
            f"lr_scheduler waits for {monitor!r}, which is not measured; the metrics are "
            f"{', '.join(sorted(values))}."
        )


class PlateauStep(Callback):
    """Calls ``step_plateau`` after each validation of a fit, when all its metrics are known."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step the schedule, before checkpoints are written."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            step_plateau(pl_module)


def _monitor(schedule: ReduceLROnPlateau) -> str:
    return getattr(schedule, "monitor", "val/loss")

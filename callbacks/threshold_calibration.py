"""Sets the thresholds of a sparse autoencoder on held-out activations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from framework.objectives.errors import IncompatibleError
from framework.training.compatibility import require
from framework.utilities.lightning_internals import datamodule_of


@runtime_checkable
class Calibrating(Protocol):
    """Module whose thresholds can be calibrated."""

    def prepare_calibration(self) -> None:
        """Read what ``calibrate`` needs beside these batches; collective."""

    def calibrate(self, batches: Iterable[dict[str, Any]]) -> None:
        """Set the thresholds to what the selection would keep on these batches; collective."""


class ThresholdCalibration(Callback):
    """Before each validation, sets thresholds with which k features per token are active there.

    A selection across tokens cannot encode a single one, so evaluation goes by thresholds. A
    running mean of the smallest value that training kept cuts too much; these thresholds keep as
    many as intended on the validation set, and so on test data of the same kind.

    Raises:
        IncompatibleError: A module without thresholds, or data without a validation set.

    Example:
        >>> isinstance(ThresholdCalibration(), Callback)
        True
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without thresholds."""
        require(self, pl_module, Calibrating, "a sparse autoencoder")  # type: ignore[type-abstract]
        data = datamodule_of(trainer)
        if stage == "fit" and getattr(data, "val_set", None) is None:
            raise IncompatibleError(
                f"ThresholdCalibration needs a validation set, and {type(data).__name__} has none."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the module read what it needs, before training reads."""
        assert isinstance(pl_module, Calibrating)
        pl_module.prepare_calibration()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate before each validation of a fit."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            assert isinstance(pl_module, Calibrating)
            pl_module.calibrate(self._batches(trainer, pl_module))

    def _batches(self, trainer: Trainer, module: LightningModule) -> Iterator[dict[str, Any]]:
        for batch in trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
            yield trainer.strategy.batch_to_device(batch, module.device)

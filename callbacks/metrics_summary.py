"""The end of a run in one table."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.utilities import rank_zero_only

from framework.command.report import relative, table
from framework.runs.validated_metrics import ValidatedMetrics
from framework.utilities.console import PlainConsole


class MetricsSummary(Callback):
    """Prints a table of the metrics, the best checkpoint, and where the results lie.

    It appears once, at the end of ``fit``, ``validate`` or ``test``; training's values are means
    over the last epoch, and where training went on after the latest validation, a line says so.
    Lightning's own table is left out with ``verbose=False``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MetricsSummary()], logger=False)
    """

    def __init__(self) -> None:
        self._validated = ValidatedMetrics()
        self._has_trained = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the validations of an earlier fit."""
        self._validated = ValidatedMetrics()
        self._has_trained = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is something to train."""
        self._has_trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of the fit."""
        self._print(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of ``validate``; a validation during a fit has none."""
        self._validated.note(trainer)
        if trainer.state.fn == "validate":
            self._print(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of the test."""
        self._print(trainer)

    @rank_zero_only
    def _print(self, trainer: Trainer) -> None:
        console = PlainConsole()
        fits = trainer.state.fn == "fit"
        console.print(table(trainer.callback_metrics))
        if fits and self._validated.has_older(trainer):
            console.print(
                f"val is of step {self._validated.step}; training went on to step "
                f"{trainer.global_step}",
                soft_wrap=True,
            )
        best = trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.best_model_path:
            score = "" if best.best_model_score is None else f" {float(best.best_model_score):.4g}"
            what = f" ({best.monitor}{score})" if best.monitor else ""
            console.print(
                f"best checkpoint{what}: {relative(best.best_model_path)}", soft_wrap=True
            )
        elif fits and trainer.fast_dev_run:  # type: ignore[attr-defined]
            console.print("fast_dev_run keeps no checkpoint and no metrics")
        elif fits and isinstance(best, ModelCheckpoint) and best.monitor and best.save_top_k:
            console.print(
                f"no best checkpoint: no validation measured {best.monitor}", soft_wrap=True
            )
        if fits and (reason := self._why_stopped(trainer)):
            console.print(reason, soft_wrap=True)
        finished = f"finished at step {trainer.global_step}; " if fits else ""
        console.print(f"{finished}results: {relative(trainer.default_root_dir)}", soft_wrap=True)

    def _why_stopped(self, trainer: Trainer) -> str:
        """Return why a fit ended before its epochs or steps were done, or did not begin."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
        if any(seconds is not None and seconds <= 0 for seconds in left):
            return f"stopped by max_time at step {trainer.global_step}"
        if not self._has_trained:
            if 0 <= trainer.max_steps <= trainer.global_step:
                done, option = f"{trainer.global_step} steps", "--trainer.max_steps"
            elif (
                trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch
            ):
                done, option = f"{trainer.current_epoch} epochs", "--trainer.max_epochs"
            else:
                return "nothing was trained: there are no training batches"
            return f"nothing was trained: {done} were done before; go on by a larger {option}"
        for callback in callbacks:
            if not isinstance(callback, EarlyStopping) or not trainer.should_stop:
                continue
            if callback.stopping_reason_message:
                why = " ".join(callback.stopping_reason_message.split()).rstrip(".")
                return f"stopped early at step {trainer.global_step}: {why}"
        return ""

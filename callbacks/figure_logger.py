"""Learning curves and a module's own figures, as PNG in the run folder and in loggers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from framework.figures.score_table import Table
from framework.figures.style import caption_of, may_fail, save_png
from framework.runs.csv_logger import Row, RunLogger, read_metrics
from framework.runs.media import as_csv, log_figure, log_table
from framework.training.module import TrainingModule
from framework.utilities.checks import check_at_least
from framework.utilities.files import write_text
from framework.utilities.precision import at_least_float32


class FigureLogger(Callback):
    """Draws the learning curves and what ``TrainingModule.figures`` and ``score_tables`` return.

    A run with a gradient combiner also has the weights of its terms and the angles between their
    gradients.

    The PNGs lie in ``figures/`` of the run folder, named after the stage, and each new drawing
    replaces the last; loggers of W&B, TensorBoard and MLflow get every one, with its heading as
    caption. Tables lie in ``tables/`` as CSV and go the same way. All are made at the end of
    ``fit``, ``validate`` and ``test``, and in between after a validation. What cannot be made, or
    not sent to a logger, is named in a warning.

    Args:
        every_n_minutes: Least time in minutes between two drawings during training.

    Raises:
        ValueError: ``every_n_minutes`` is negative.

    Example:
        >>> FigureLogger(every_n_minutes=10).every_n_minutes
        10
    """

    def __init__(self, every_n_minutes: float = 1.0) -> None:
        check_at_least(0, every_n_minutes=every_n_minutes)
        self.every_n_minutes = every_n_minutes
        self._drawn_at = 0.0
        self._has_validated = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when the fit began, from which waiting counts."""
        self._drawn_at = time.monotonic()
        self._has_validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, unless training goes on and it was done a short while ago."""
        if trainer.sanity_checking:
            return
        self._has_validated = True
        waited = time.monotonic() - self._drawn_at
        if trainer.state.fn != "fit":
            self._draw(trainer, pl_module, "val", prefix="validate")
        elif waited >= 60 * self.every_n_minutes:
            self._draw(trainer, pl_module, "val")
            self._draw_curves(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the figures of the test."""
        self._draw(trainer, pl_module, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the latest validation and the learning curves."""
        # what a module knows otherwise is of the sanity check, or of an earlier fit
        if self._has_validated:
            self._draw(trainer, pl_module, "val")
        self._draw_curves(trainer)

    @rank_zero_only
    def _draw(
        self, trainer: Trainer, module: LightningModule, stage: str, prefix: str | None = None
    ) -> None:
        values = getattr(module, "metric_values", None)
        if not isinstance(module, TrainingModule) or not values:
            return
        with may_fail(f"the figures of {prefix or stage}"):
            # NumPy has no bfloat16
            readable = {key: _in_single_precision(value) for key, value in values.items()}
            for name, figure in module.figures(stage, readable).items():
                self._save(trainer, f"{prefix or stage}_{name}", figure)
        with may_fail(f"the tables of {prefix or stage}", "made"):
            for name, table in module.score_tables(stage, values).items():
                self._save_table(trainer, f"{prefix or stage}_{name}", table)
        self._drawn_at = time.monotonic()

    @rank_zero_only
    def _draw_curves(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                _, rows = read_metrics(logger.path)
                if rows:
                    with may_fail("the learning curves"):
                        self._save_curves(trainer, rows)

    def _save_curves(self, trainer: Trainer, rows: list[Row]) -> None:
        from framework.figures.curves import learning_curves
        from framework.figures.preference import preference_figures

        figures = {"learning_curves": learning_curves(rows), **preference_figures(rows)}
        for name, figure in figures.items():
            self._save(trainer, name, figure)

    def _save(self, trainer: Trainer, name: str, figure: Any) -> None:
        path = Path(trainer.default_root_dir) / "figures" / f"{name}.png"
        save_png(figure, path)
        log_figure(trainer, f"figures/{name}", path, caption_of(figure))

    def _save_table(self, trainer: Trainer, name: str, table: Table) -> None:
        write_text(Path(trainer.default_root_dir) / "tables" / f"{name}.csv", as_csv(table))
        log_table(trainer, f"tables/{name}", table)


def _in_single_precision(value: Any) -> Any:
    return at_least_float32(value) if isinstance(value, Tensor) else value

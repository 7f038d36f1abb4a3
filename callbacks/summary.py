"""The end of a run in one table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

STAGES = ("train", "val", "test")


class Summary(Callback):
    """Prints a table of the metrics, the best checkpoint, and where the results lie.

    It appears once, at the end of ``fit``, ``validate`` or ``test``; training's values are means
    over the last epoch. Lightning's own table is left out with ``verbose=False``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[Summary()], logger=False)
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        self._print(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print, unless validation is part of training."""
        if trainer.state.fn == "validate":
            self._print(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        self._print(trainer)

    @rank_zero_only
    def _print(self, trainer: Trainer) -> None:
        from rich.console import Console

        console = Console(highlight=False)
        values = by_stage(trainer.callback_metrics)
        if values:
            console.print(_table(values))
        best = trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.best_model_path:
            score = "" if best.best_model_score is None else f" {float(best.best_model_score):.4g}"
            what = f" ({best.monitor}{score})" if best.monitor else ""
            console.print(
                f"best checkpoint{what}: {relative(best.best_model_path)}", soft_wrap=True
            )
        console.print(f"results: {relative(trainer.default_root_dir)}", soft_wrap=True)


def by_stage(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return {name: {stage: value}} of the epoch's values, the losses first."""
    values: dict[str, dict[str, float]] = {}
    for logged, value in metrics.items():
        stage, _, name = logged.partition("/")
        if stage == "train":
            name, dot, rest = name.rpartition("_epoch")
            if not dot or rest:
                continue
        if stage in STAGES and name:
            values.setdefault(name, {})[stage] = float(value)
    return dict(sorted(values.items(), key=lambda item: item[0] != "loss"))


def _table(values: dict[str, dict[str, float]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    stages = [stage for stage in STAGES if any(stage in row for row in values.values())]
    table = Table(box=SIMPLE_HEAD)
    table.add_column("metric")
    for stage in stages:
        table.add_column(stage, justify="right")
    for name, row in values.items():
        table.add_row(name, *(f"{row[stage]:.4g}" if stage in row else "" for stage in stages))
    return table


def relative(path: str | Path) -> str:
    """Return a path as seen from the current folder, where that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)

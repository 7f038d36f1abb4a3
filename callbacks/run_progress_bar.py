"""A progress bar with the latest validation, the loss and the time that is left of the run."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, Timer
from lightning.pytorch.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    CustomBarColumn,
    ProcessingSpeedColumn,
)
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.text import Text

from framework.reports.summary import by_stage
from framework.runs.validated_metrics import ValidatedMetrics
from framework.training.module import TrainingModule
from framework.utilities.console import PlainConsole

WIDE = 100
"""Columns of a terminal from which on the bar is long and has the speed beside it."""
PAUSE = (60.0, 600.0)
"""Shortest and longest seconds between two lines of a log; else a tenth of the run so far."""


class TimeLeft(ProgressColumn):
    """The time that is left of the run, or of an evaluation."""

    max_refresh = 0.5

    def __init__(self, bar: RunProgressBar) -> None:
        super().__init__()
        self._bar = bar

    def render(self, task: Task) -> Text:
        """Return the text."""
        trains = task.id == self._bar.train_progress_bar_id
        seconds = self._bar.seconds_left if trains else task.time_remaining
        return Text("" if seconds is None else f"{clock(seconds)} left")


class RunProgressBar(RichProgressBar):
    """Shows the epoch, the time left of the run, the loss and the latest validation, in one line.

    The metric that the best checkpoint is chosen by comes first, and other metrics and this rank's
    terms of the loss follow where the terminal is wide enough. The terms are read, which makes a
    GPU wait, only as often as they are shown. Where the output is no terminal, such as a log file,
    there is one line per epoch instead, and one every few minutes of a long epoch.

    Args:
        refresh_rate: Updates per second; 0 shows nothing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RunProgressBar(refresh_rate=2)], logger=False)
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._is_terminal = Console().is_terminal
        self._shown_at = 0.0
        self._started_at = 0.0
        self._line = ""
        self._printed_at = 0.0
        self._validated = ValidatedMetrics()
        self._values: dict[str, str] = {}
        self._batches = 0
        self._run_started_at = 0.0
        self.seconds_left: float | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether there is a bar on this rank."""
        return super().is_enabled and self._is_terminal

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Return the columns before the values."""
        wide = Console().width >= WIDE
        bar = CustomBarColumn(
            bar_width=40 if wide else 8,
            complete_style=self.theme.progress_bar,
            finished_style=self.theme.progress_bar_finished,
            pulse_style=self.theme.progress_bar_pulse,
        )
        speed = [ProcessingSpeedColumn(style=self.theme.processing_speed)] if wide else []
        return [
            TextColumn("{task.description}"),
            bar,
            BatchesProcessedColumn(style=self.theme.batch_progress),
            *speed,
            TimeLeft(self),
        ]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands beside the bar, as much of it as the terminal has room for."""
        terms = pl_module.term_values if isinstance(pl_module, TrainingModule) else {}
        shown: dict[str, Any]
        if terms:
            values = torch.stack([value.float() for value in terms.values()]).tolist()
            shown = {name: f"{v:.4g}" for name, v in zip(terms, values, strict=True)}
        else:
            shown = dict(super().get_metrics(trainer, pl_module))
            shown.pop("v_num", None)
        loss = {"loss": shown.pop("loss")} if "loss" in shown else {}
        # a single term is the loss
        shown = {name: value for name, value in shown.items() if value not in loss.values()}
        room, fitting = self._room(), {}
        for name, value in (loss | self._values | shown).items():
            text = value if isinstance(value, str) else f"{value:{self.theme.metrics_format}}"
            room -= len(f" {name}: {text}")
            if room < 0:
                break
            fitting[name] = text
        return fitting

    def _room(self) -> int:
        """Return how many characters of the line are free."""
        if self.progress is None or self.train_progress_bar_id is None:
            return Console().width
        task = self.train_progress_bar
        *columns, _ = self.progress.columns
        taken = 0
        for column in columns:
            assert isinstance(column, ProgressColumn)
            cell: Any = column.bar_width if isinstance(column, BarColumn) else column(task)
            taken += 1 + (cell if isinstance(cell, int) else len(cell))
        return self.progress.console.width - taken

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the run."""
        self._batches, self._run_started_at = 0, time.monotonic()
        self._printed_at = self._run_started_at
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the bar, at most ``refresh_rate`` times per second."""
        now = time.monotonic()
        self._batches += 1
        if self.is_enabled and (
            trainer.is_last_batch or now - self._shown_at >= 1 / self.refresh_rate
        ):
            self._shown_at = now
            self.seconds_left = self._seconds_left(trainer, batch_idx + 1)
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        elif super().is_enabled and not self._is_terminal and not trainer.is_last_batch:
            shortest, longest = PAUSE
            pause = min(longest, max(shortest, (now - self._run_started_at) / 10))
            if now - self._printed_at >= pause:
                self._print(f"{self._within_epoch(trainer, batch_idx + 1)}{self._terms(pl_module)}")

    def _within_epoch(self, trainer: Trainer, batch: int) -> str:
        """Return the place in a long epoch."""
        line = f"{_epoch(trainer)}, batch {batch}"
        if math.isfinite(trainer.num_training_batches):
            line += f"/{trainer.num_training_batches}"
        left = self._seconds_left(trainer, batch)
        return f"{line}, step {trainer.global_step}" + (f", {clock(left)} left" if left else "")

    def _terms(self, pl_module: LightningModule) -> str:
        """Return the latest terms of this rank, which makes a GPU wait."""
        terms = pl_module.term_values if isinstance(pl_module, TrainingModule) else {}
        named = [f"{name} {float(value):.4g}" for name, value in terms.items()]
        return f" | train {', '.join(named)}" if named else ""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the values and which weights they belong to."""
        self._validated.note(trainer)
        if not trainer.sanity_checking:
            self._values = self._validation_values(trainer)
        super().on_validation_end(trainer, pl_module)

    def _validation_values(self, trainer: Trainer) -> dict[str, str]:
        """Return the values of the latest validation, what the best is chosen by first."""
        monitor = getattr(trainer.checkpoint_callback, "monitor", None)
        # a name with a second slash is a reference value, the same in every epoch
        values = {n: v for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        names = sorted((n for n in values if n.count("/") == 1), key=lambda n: n != monitor)
        return {name: f"{float(values[name]):.4g}" for name in names}

    def _seconds_left(self, trainer: Trainer, batch: float) -> float | None:
        """Return how long the run still takes by its speed so far; None where it has no end."""
        left = [math.inf]
        if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(batch):
            epochs = trainer.max_epochs - trainer.current_epoch
            left.append(epochs * trainer.num_training_batches - batch)
        if trainer.max_steps > 0:
            steps = trainer.max_steps - trainer.global_step
            left.append(steps * trainer.accumulate_grad_batches)
        speed = (time.monotonic() - self._run_started_at) / max(self._batches, 1)
        seconds = [min(left) * speed]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (rest := callback.time_remaining()) is not None:
                seconds.append(rest)
        return min(seconds) if min(seconds) < math.inf else None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the epoch before, and start the clock of this one."""
        super().on_train_epoch_start(trainer, pl_module)
        self._print_line(trainer)
        self._started_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is an epoch to report; its means are not known yet."""
        super().on_train_epoch_end(trainer, pl_module)
        self._line = _epoch(trainer)
        if self._started_at:
            speed = trainer.num_training_batches / (time.monotonic() - self._started_at)
            self._line += f", {speed:.3g} it/s"
        left = self._seconds_left(trainer, trainer.num_training_batches)
        if left:
            self._line += f", {clock(left)} left"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch."""
        super().on_train_end(trainer, pl_module)
        self._print_line(trainer)

    def _print_line(self, trainer: Trainer) -> None:
        # a bar that is not disabled but has no terminal
        if self._line and super().is_enabled and not self._is_terminal:
            parts = [self._line]
            values = by_stage(trainer.callback_metrics)
            for stage in ("train", "val"):
                # a name with a slash is a reference value, the same in every epoch
                shown = [n for n, row in values.items() if stage in row and "/" not in n]
                named = [f"{n} {values[n][stage]:.4g}" for n in shown]
                if named:
                    older = stage == "val" and self._validated.has_older(trainer)
                    when = f" at step {self._validated.step}" if older else ""
                    parts.append(f"{stage}{when} {', '.join(named)}")
            self._print(" | ".join(parts))
        self._line = ""

    def _print(self, line: str) -> None:
        self._printed_at = time.monotonic()
        PlainConsole().print(line, soft_wrap=True)


def _epoch(trainer: Trainer) -> str:
    """Return the number of the epoch, and that of the last."""
    last = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs - 1}"
    return f"epoch {trainer.current_epoch}{last}"


def clock(seconds: float) -> str:
    """Return a time in hours, minutes and seconds.

    Example:
        >>> clock(100_000)
        '27:46:40'
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

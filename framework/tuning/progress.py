"""What a person sees of a search: a table on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table

from framework.tuning.settings import TuneSettings
from framework.tuning.short_names import short_names
from framework.utilities.console import PlainConsole

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from framework.tuning.study import StudyFolder

ROWS = 10
"""Trials in the table that changes."""


class Progress:
    """Shows each trial as it begins, is measured and ends.

    Args:
        settings: Settings of the study.
        console: Where it is shown; default standard output.
    """

    def __init__(self, settings: TuneSettings, console: PlainConsole | None = None) -> None:
        self.settings = settings
        self.console = console or PlainConsole()
        self._rows: dict[int, list[str]] = {}
        self._live: Live | None = None
        self._best = ""

    def __enter__(self) -> Progress:
        """Show the table, where the output is a terminal."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, trial: FrozenTrial) -> None:
        """Show the settings of a trial that begins."""
        self._rows[trial.number] = ["runs", "", in_words(trial.params)]
        self._draw()

    def reported(self, trial: FrozenTrial, value: float, count: int) -> None:
        """Show what the latest validation measured.

        Args:
            trial: Trial that runs.
            value: Metric.
            count: Validations so far.
        """
        self._rows[trial.number][:2] = [f"validation {count}", f"{value:.4g}"]
        self._draw()

    def ended(self, trial: FrozenTrial, study: StudyFolder) -> None:
        """Show what a trial came to, and the best one so far."""
        best = study.best()
        if best is not None:
            # which trial mf_kg recommends is found at the end of the search
            where = " at any fidelity" if self.settings.sampler == "mf_kg" else ""
            self._best = f"best{where} {float(best.value):.4g} (trial {best.number})"
        state = str(trial.state.name).lower()
        value = "" if trial.value is None else f"{float(trial.value):.4g}"
        what = value or str(trial.user_attrs.get("reason", ""))
        self._rows[trial.number] = [state, value, in_words(trial.params)]
        if self._live is not None:
            if not value:
                self._live.console.print(f"trial {trial.number} failed: {what}", soft_wrap=True)
            self._draw()
            return
        said = f"{self.settings.metric} {what}" if value else f"failed: {what}"
        pruned = " (pruned)" if state == "pruned" else ""
        parts = [
            f"{said}{pruned}",
            in_words(trial.params),
            f"{trial.user_attrs['seconds']:.0f} s",
            self._best,
        ]
        self.console.print(
            f"trial {trial.number}: {' | '.join(part for part in parts if part)}", soft_wrap=True
        )

    def _draw(self) -> None:
        if self._live is None:
            return
        done = sum(row[0] in ("complete", "pruned", "fail") for row in self._rows.values())
        table = Table(box=SIMPLE_HEAD, title_justify="left")
        table.title = f"{self.settings.name}: {done} trial(s) in this search; {self._best}"
        for name in ("trial", "state", self.settings.metric, "settings"):
            table.add_column(name)
        for number in sorted(self._rows)[-ROWS:]:
            table.add_row(str(number), *self._rows[number])
        self._live.update(table, refresh=True)


def in_words(params: Mapping[str, Any]) -> str:
    """Return settings on one line, by as few last parts of their names as tell them apart.

    Example:
        >>> in_words({"model.optimizer.lr": 0.012345, "data.batch_size": 32})
        'lr 0.01235, batch_size 32'
    """
    values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in params.values()]
    return ", ".join(
        f"{name} {value}" for name, value in zip(short_names(list(params)), values, strict=True)
    )

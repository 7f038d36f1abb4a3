"""Changes the selection of a sparse autoencoder during training: mutual, then feature choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from framework.objectives.errors import IncompatibleError
from framework.sparse_coding.selection import Selection


@dataclass
class SelectionPhase:
    """A rule and when it begins.

    Args:
        start: share of the run's optimizer steps, in (0, 1).
        selection: the rule.
    """

    start: float
    selection: Selection


@runtime_checkable
class Switching(Protocol):
    """What the schedule asks of a module."""

    def add_selection(self, selection: Selection) -> None:
        """Add a rule, which gets the next number."""

    def switch_selection(self, number: int) -> None:
        """Go on with a rule; the module's own is number 0."""


class SelectionSchedule(Callback):
    """Goes on with other rules from given shares of the run.

    The run begins with the module's own rule. At a switch to feature choice the features are ranked
    by their density so far, and budgets follow a Zipf law; optimizer and schedule are left alone.

    Paper: Ayonrinde, arXiv:2411.02124: mutual choice first, then feature choice. When to switch is
    not given there.

    Args:
        phases: in the order in which they begin.

    Raises:
        ValueError: the starts are not ascending shares.
        IncompatibleError: a module without selections, or a run without a known length.

    Example:
        >>> from framework.sparse_coding.selection import FeatureChoice
        >>> schedule = SelectionSchedule([SelectionPhase(0.5, FeatureChoice(k=32))])
        >>> [schedule.phase_at(step, total=100) for step in (0, 49, 50)]
        [0, 0, 1]
    """

    def __init__(self, phases: Sequence[SelectionPhase]) -> None:
        starts = [phase.start for phase in phases]
        if not starts or not all(0 < s < 1 for s in starts) or sorted(set(starts)) != starts:
            raise ValueError(
                f"SelectionSchedule: phases must start at ascending shares of the run between 0 "
                f"and 1, got {starts}."
            )
        self.phases = list(phases)
        self._added_to: Any = None
        self._total = 0

    def phase_at(self, step: int, total: int) -> int:
        """Return the number of the rule in use at a step, 0 being the module's own."""
        return sum(math.ceil(phase.start * total) <= step for phase in self.phases)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the rules, so that a checkpoint finds what it restores."""
        if not isinstance(pl_module, Switching):
            raise IncompatibleError(
                f"SelectionSchedule changes the selection of a sparse autoencoder, and "
                f"{type(pl_module).__name__} has none."
            )
        if self._added_to is not pl_module:
            for phase in self.phases:
                pl_module.add_selection(phase.selection)
            self._added_to = pl_module

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the length of the run."""
        total = trainer.estimated_stepping_batches
        if math.isinf(total):
            raise IncompatibleError(
                "SelectionSchedule needs the length of the run: set max_epochs or max_steps."
            )
        self._total = int(total)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Switch where a phase begins."""
        assert isinstance(pl_module, Switching)
        pl_module.switch_selection(self.phase_at(trainer.global_step, self._total))

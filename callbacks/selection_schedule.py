"""Changes the selection of a sparse autoencoder during training: mutual, then feature choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer

from framework.objectives.errors import IncompatibleError
from framework.sparse_coding.selection import Selection
from framework.training.compatibility import require


@dataclass
class SelectionPhase:
    """A rule of selection, and when it begins.

    Args:
        start: Share of the run's optimizer steps, in (0, 1), before it begins.
        selection: Rule that begins then.
    """

    start: float
    selection: Selection


@runtime_checkable
class Switching(Protocol):
    """Module whose selection can change during training."""

    def add_selection(self, selection: Selection) -> None:
        """Add a rule, which gets the next number."""

    def switch_selection(self, number: int) -> None:
        """Continue with a rule; the module's own is number 0."""


class SelectionSchedule(Callback):
    """Switches to other rules of selection at given shares of the run.

    The run begins with the module's own rule. At a switch to feature choice the features are ranked
    by their density so far, and budgets follow a Zipf law; optimizer and schedule are left alone.

    Paper: Ayonrinde, arXiv:2411.02124: mutual choice first, then feature choice. When to switch is
    not given there.

    Args:
        phases: Rules in the order in which they begin.

    Raises:
        ValueError: The starts are not ascending shares.
        IncompatibleError: A module without selections, or a run without a known length.

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
                f"phases must start at ascending shares of the run between 0 and 1, got {starts}."
            )
        self.phases = list(phases)
        self._added_to: Any = None
        self._total = 0

    def phase_at(self, step: int, total: int) -> int:
        """Return the number of the rule in use at a step, 0 being the module's own."""
        return sum(math.ceil(phase.start * total) <= step for phase in self.phases)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add the rules, so that a checkpoint finds what it restores."""
        self.extend_module(pl_module)

    def extend_module(self, module: LightningModule) -> None:
        """Add the rules to a module, once; ``trimtab.load`` does so too."""
        switching = require(self, module, Switching, "a sparse autoencoder")  # type: ignore[type-abstract]
        if self._added_to is not module:
            for phase in self.phases:
                switching.add_selection(phase.selection)
            self._added_to = module

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
        """Switch to the rule of the phase that begins here."""
        assert isinstance(pl_module, Switching)
        pl_module.switch_selection(self.phase_at(trainer.global_step, self._total))

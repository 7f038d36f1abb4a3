"""Which metrics are those of the present weights, and which are older."""

from __future__ import annotations

from lightning.pytorch import Trainer

from framework.utilities.lightning_internals import measured_now


class ValidatedMetrics:
    """Remembers at which step the latest validation of a fit measured which metrics.

    ``trainer.callback_metrics`` keeps the values of the latest validation while training goes on,
    and says neither of them nor of others which weights they belong to.
    """

    def __init__(self) -> None:
        self.step = -1
        """Optimizer steps before the latest validation; -1 before the first."""
        self._names: frozenset[str] = frozenset()

    def note(self, trainer: Trainer) -> None:
        """Note a validation; in the hook ``on_validation_end``."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.step = trainer.global_step
            self._names = measured_now(trainer)

    def is_older(self, name: str, trainer: Trainer) -> bool:
        """Return whether a metric was measured by a validation that training went on after."""
        return name in self._names and self.has_older(trainer)

    def has_older(self, trainer: Trainer) -> bool:
        """Return whether training went on after the latest validation."""
        return bool(self._names) and self.step != trainer.global_step

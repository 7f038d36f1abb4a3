"""Base of what serves the data of another datamodule in another form."""

from __future__ import annotations

from typing import Any

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.data.facts import Facts


class WrappedData(DataModule):
    """Base of datamodules that serve what another one reads.

    A subclass sets ``data``, which ``setup`` prepares by ``facts_for_data`` of what was trained.
    """

    data: DataModule

    def facts_for_data(self, facts: Facts) -> Facts:
        """Return what of the facts of training is true of the wrapped data; default: all."""
        return facts

    def prepare_data(self) -> None:
        """Prepare the wrapped data."""
        self.data.prepare_data()

    def use_facts(self, facts: Facts) -> None:
        """Prepare the wrapped data as those that a model was trained on."""
        super().use_facts(facts)
        self.data.use_facts(self.facts_for_data(facts))

    def forget(self) -> None:
        """Forget what ``setup`` read."""
        super().forget()
        self.data.forget()

    def as_batch(self, inputs: Any) -> Batch:
        """Return raw inputs as the wrapped data prepares them."""
        return self.data.as_batch(inputs)

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Restore those of the wrapped data."""
        self.data.restore_statistics(state)

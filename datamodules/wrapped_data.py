"""Base of what serves the data of another datamodule in another form."""

from __future__ import annotations

from typing import Any

from datamodules.classification import ClassificationData
from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.data.facts import Facts, copy_facts


def check_makes_no_batches(wrapper: DataModule, data: DataModule) -> None:
    """Refuse data that would make batches, or leave rows out, by rules that a wrapper ignores.

    Raises:
        ValueError: What the data has, and that it is to be given to the wrapper or dropped.
    """
    own, name = type(wrapper).__name__, type(data).__name__
    if data.drop_last or data.shards is not None:
        raise ValueError(
            f"{own} makes the batches: give it {name}'s "
            f"{'drop_last' if data.drop_last else 'shards'}."
        )
    if getattr(data, "balance_classes", False):
        raise ValueError(f"{own} makes the batches: drop {name}'s balance_classes.")
    usual = (DataModule.train_sampler, ClassificationData.train_sampler)
    if type(data).train_sampler not in usual:
        raise ValueError(
            f"{own} makes the batches, and {name} has batches of its own: wrap what {name} is made "
            "of."
        )


class WrappedData(DataModule):
    """Base of datamodules that serve what another one reads.

    A subclass sets ``data``, which ``setup`` prepares by ``facts_for_data`` of what was trained.
    """

    data: DataModule

    def facts_for_data(self, facts: Facts) -> Facts:
        """Return what of the facts of training is true of the wrapped data; default: all."""
        return facts

    def set_up_data(self) -> None:
        """Set the wrapped data up as in training, take its facts and what it evaluates."""
        self.data.use_facts(self.facts_for_data(self.trained))
        self.data.setup("fit")
        copy_facts(self.data, self)
        self.val_set, self.test_set = self.data.val_set, self.data.test_set
        self.predict_set = self.data.predict_set

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

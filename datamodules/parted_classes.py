"""Base of what is drawn from labeled images whose training and evaluated classes differ."""

from __future__ import annotations

from typing import Any

from datamodules.class_parts import ClassParts, class_parts
from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.data.facts import Facts

SHARED_FACTS = ("origin", "input_shape", "resize", "normalize")
"""Facts of the wrapped images that are facts of what is drawn from them."""


class PartedClasses(DataModule):
    """Base of datamodules that wrap labeled images and part their classes.

    A subclass sets ``data``, ``val_classes`` and ``test_classes``, and serves what ``read_parts``
    returns.
    """

    data: DataModule
    val_classes: Any
    test_classes: Any

    def prepare_data(self) -> None:
        """Prepare the wrapped data."""
        self.data.prepare_data()

    def read_parts(self) -> ClassParts:
        """Set the wrapped data up, and part its classes."""
        self.data.use_facts(_own_facts(self.trained))
        self.data.setup("fit")
        self._share_facts()
        return class_parts(self.data, self.val_classes, self.test_classes)

    def use_facts(self, facts: Facts) -> None:
        """Prepare the wrapped data as those that a model was trained on."""
        super().use_facts(facts)
        self.data.use_facts(_own_facts(facts))
        self._share_facts()

    def forget(self) -> None:
        """Forget what ``setup`` read."""
        super().forget()
        self.data.forget()

    def as_batch(self, inputs: Any) -> Batch:
        """Return images as the wrapped data prepares them: a batch for ``forward``."""
        return self.data.as_batch(inputs)

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Restore those of the wrapped data."""
        self.data.restore_statistics(state)
        self._share_facts()

    def _share_facts(self) -> None:
        for name in SHARED_FACTS:
            if hasattr(self.data, name):
                setattr(self, name, getattr(self.data, name))


def _own_facts(facts: Facts) -> Facts:
    """Return the facts that images have in common with those that a model was trained on.

    Their classes are others.
    """
    return {name: fact for name, fact in facts.items() if name in SHARED_FACTS}

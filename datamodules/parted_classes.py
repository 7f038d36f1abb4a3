"""Base of what is drawn from labeled images whose training and evaluated classes differ."""

from __future__ import annotations

from typing import Any

from datamodules.class_parts import ClassParts, class_parts
from datamodules.wrapped_data import WrappedData
from framework.data.facts import Facts, copy_facts

SHARED_FACTS = ("origin", "input_shape", "resize", "normalize")
"""Facts of the wrapped images that are facts of what is drawn from them."""


class PartedClasses(WrappedData):
    """Base of datamodules that wrap labeled images and part their classes.

    A subclass sets ``data``, ``val_classes`` and ``test_classes``, and serves what ``read_parts``
    returns.
    """

    val_classes: Any
    test_classes: Any

    def facts_for_data(self, facts: Facts) -> Facts:
        """Return the facts of images, whose classes are others."""
        return {name: fact for name, fact in facts.items() if name in SHARED_FACTS}

    def read_parts(self) -> ClassParts:
        """Set the wrapped data up, and part its classes."""
        self.data.use_facts(self.facts_for_data(self.trained))
        self.data.setup("fit")
        self._share_facts()
        return class_parts(self.data, self.val_classes, self.test_classes)

    def use_facts(self, facts: Facts) -> None:
        """Prepare the wrapped data as those that a model was trained on."""
        super().use_facts(facts)
        self._share_facts()

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Restore those of the wrapped data."""
        super().restore_statistics(state)
        self._share_facts()

    def _share_facts(self) -> None:
        copy_facts(self.data, self, SHARED_FACTS)

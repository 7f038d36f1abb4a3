"""The base of effects that change one field of a batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from framework.self_tuning.draws import Draws
from framework.self_tuning.effect import Effect
from framework.self_tuning.hyperparameter import HyperParameter


class InputEffect(Effect):
    """Changes the input of the network, one field of a batch, on its device.

    A subclass writes ``changed``. The batch itself stays as it is.

    Args:
        field: Field of a batch that is changed.
        name: Prefix of the names of its hyperparameters.
        hyperparameters: Hyperparameters by their names without the prefix.
    """

    def __init__(
        self, field: str, name: str, hyperparameters: Mapping[str, HyperParameter]
    ) -> None:
        super().__init__(name, hyperparameters)
        self.field = field

    @abstractmethod
    def changed(self, x: Tensor, draws: Draws) -> Tensor:
        """Return what a step sees of this rank's rows ``x`` (B, ...)."""

    def change_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with its field changed."""
        if self.active is None or self.draws is None:
            return batch
        return batch | {self.field: self.changed(self.field_of(batch, self.field), self.draws)}

    def value_of(self, key: str, x: Tensor) -> Tensor:
        """Return a value in a shape that multiplies ``x``."""
        return self.value_for(key, x, f"the field {self.field!r}")

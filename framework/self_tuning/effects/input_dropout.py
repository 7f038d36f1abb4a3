"""Dropout of a network's input at a tuned rate."""

from __future__ import annotations

from typing import Any

from framework.self_tuning.effect import Effect
from framework.self_tuning.effects.dropping import drop
from framework.self_tuning.hyperparameter import HyperParameter

RATE = HyperParameter(init=0.05, low=0.0, high=1.0)
"""Range of the rate in the paper's code."""


class InputDropout(Effect):
    """Drops elements of the batch's input at a rate that each row has for itself.

    What is kept is divided by 1 - rate. The mask does not depend on the number of ranks.

    Shapes: the input (B, ...).

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088.

    Args:
        field: Field of a batch that is dropped.
        name: Prefix of the hyperparameter's name, ``NAME.rate``.
        rate: Rate, within (0, 1).

    Raises:
        ValueError: The rate's range goes beyond; in a step, a batch without such a field.

    Example:
        >>> import torch
        >>> from framework.self_tuning import Draws, InputDropout
        >>> dropout = InputDropout()
        >>> with dropout.at({"rate": torch.tensor([0.0, 0.5])}, Draws(seed=0, step=0)):
        ...     image = dropout.change_batch({"image": torch.ones(2, 8)})["image"]
        >>> image.amin(1)
        tensor([1., 0.])
    """

    def __init__(
        self, field: str = "image", name: str = "input_dropout", rate: HyperParameter = RATE
    ) -> None:
        super().__init__(name, {"rate": rate.within(f"{name}.rate", RATE, low=0, high=1)})
        self.field = field

    def change_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with elements of its input dropped."""
        if self.active is None or self.draws is None:
            return batch
        x = self.field_of(batch, self.field)
        rate = self.value_for("rate", x, f"the field {self.field!r}")
        stream = self.stream(self.field)
        noise = self.draws.uniform(stream, len(x), *x.shape[1:], device=x.device)
        return batch | {self.field: drop(x, rate, noise)}

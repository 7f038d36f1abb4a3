"""Dropout of a network's input at a tuned rate."""

from __future__ import annotations

from torch import Tensor

from framework.self_tuning.draws import Draws
from framework.self_tuning.effects.dropping import RATE, drop
from framework.self_tuning.effects.input_effect import InputEffect
from framework.self_tuning.hyperparameter import HyperParameter


class InputDropout(InputEffect):
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
        super().__init__(field, name, {"rate": rate.within(f"{name}.rate", RATE, low=0, high=1)})

    def changed(self, x: Tensor, draws: Draws) -> Tensor:
        """Return ``x`` with elements dropped."""
        rate, stream = self.value_of("rate", x), self.stream(self.field)
        return drop(x, rate, draws.uniform(stream, len(x), *x.shape[1:], device=x.device))

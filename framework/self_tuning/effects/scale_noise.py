"""Random scaling of the input by a tuned range."""

from __future__ import annotations

from torch import Tensor

from framework.self_tuning.draws import Draws
from framework.self_tuning.effects.input_effect import InputEffect
from framework.self_tuning.hyperparameter import HyperParameter

AMOUNT = HyperParameter(init=0.05, low=0.0, high=0.3)
"""Range of the amount in the paper's code."""


class ScaleNoise(InputEffect):
    """Multiplies each row of the input by one number drawn from [1 / (1 + u), 1 + u].

    Each row has its own amount u.

    Shapes: the input (B, ...).

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088, by its code.

    Args:
        field: Field of a batch that is scaled.
        name: Prefix of the hyperparameter's name, ``NAME.amount``.
        amount: Amount u, at least 0.

    Raises:
        ValueError: The range goes below 0; in a step, a batch without such a field.

    Example:
        >>> import torch
        >>> from framework.self_tuning import Draws, ScaleNoise
        >>> noise = ScaleNoise()
        >>> with noise.at({"amount": torch.tensor([0.0, 0.3])}, Draws(seed=0, step=0)):
        ...     image = noise.change_batch({"image": torch.ones(2, 2)})["image"]
        >>> image[0], bool(image[1, 0] == image[1, 1])
        (tensor([1., 1.]), True)
    """

    def __init__(
        self, field: str = "image", name: str = "scale_noise", amount: HyperParameter = AMOUNT
    ) -> None:
        super().__init__(field, name, {"amount": amount.within(f"{name}.amount", AMOUNT, low=0)})

    def changed(self, x: Tensor, draws: Draws) -> Tensor:
        """Return ``x`` with each row scaled."""
        u = self.value_of("amount", x)
        ones = [1] * (x.ndim - 1)
        uniform = draws.uniform(self.stream(self.field), len(x), *ones, device=x.device)
        least = 1 / (1 + u)
        return x * (least + (1 + u - least) * uniform).to(x.dtype)

"""Normal noise on the input with a tuned standard deviation."""

from __future__ import annotations

from torch import Tensor

from framework.self_tuning.draws import Draws
from framework.self_tuning.effects.input_effect import InputEffect
from framework.self_tuning.hyperparameter import HyperParameter

STD = HyperParameter(init=0.05, low=0.0, high=1.0)
"""Range of the standard deviation for inputs of about unit size."""


class GaussianNoise(InputEffect):
    """Adds normal noise to each element of the input, with a standard deviation for each row.

    Shapes: the input (B, ...).

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088, for the tuning; this
    noise is not among the paper's.

    Args:
        field: Field of a batch that noise is added to.
        name: Prefix of the hyperparameter's name, ``NAME.std``.
        std: Standard deviation, at least 0.

    Raises:
        ValueError: The range goes below 0; in a step, a batch without such a field.

    Example:
        >>> import torch
        >>> from framework.self_tuning import Draws, GaussianNoise
        >>> noise = GaussianNoise(field="input")
        >>> with noise.at({"std": torch.tensor([0.0, 2.0])}, Draws(seed=0, step=0)):
        ...     x = noise.change_batch({"input": torch.zeros(2, 1000)})["input"]
        >>> x.std(1).round()
        tensor([0., 2.])
    """

    def __init__(
        self, field: str = "image", name: str = "gaussian_noise", std: HyperParameter = STD
    ) -> None:
        super().__init__(field, name, {"std": std.within(f"{name}.std", STD, low=0)})

    def changed(self, x: Tensor, draws: Draws) -> Tensor:
        """Return ``x`` with noise."""
        std, stream = self.value_of("std", x), self.stream(self.field)
        noise = draws.normal(stream, len(x), *x.shape[1:], device=x.device)
        return x + (std * noise).to(x.dtype)

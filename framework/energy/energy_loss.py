"""What losses of a density known up to a factor have in common."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss


class EnergyLoss(_Loss):
    r"""Base of losses that tell data from noise by :math:`r = \log p_0 - \log q`.

    A subclass writes ``parts``. ``per_sample`` has a value for every row of data, which needs the
    same number of draws of noise for each.

    Class attributes:
        term: Name of the loss among the terms of a training step.
    """

    term: ClassVar[str] = "energy"

    def __init__(self) -> None:
        super().__init__()

    def parts(
        self, log_ratio: Tensor, noise_log_ratio: Tensor, log_prob: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the terms of data, of the shape of ``log_ratio``, and those of noise.

        Args:
            log_ratio: Log-ratios r at data, (B,).
            noise_log_ratio: Log-ratios r at noise, (M,) or (B, k).
            log_prob: Logarithm of the noise's density at data, (B,).
        """
        raise NotImplementedError(f"{type(self).__name__} defines no loss.")

    def logs(self) -> dict[str, Tensor]:
        """Return what is worth watching of the latest batch; default: nothing."""
        return {}

    def per_sample(
        self, log_ratio: Tensor, noise_log_ratio: Tensor, log_prob: Tensor | None = None
    ) -> Tensor:
        """Return the loss of every row of data, (B,), whose mean is the loss.

        Args:
            log_ratio: Log-ratios r at data, (B,).
            noise_log_ratio: Log-ratios r at k draws for each row of data, (B, k).
            log_prob: Logarithm of the noise's density at data, (B,).

        Raises:
            ValueError: Shapes that do not fit.
        """
        if noise_log_ratio.ndim != 2 or len(noise_log_ratio) != len(log_ratio):
            raise ValueError(
                f"{type(self).__name__} needs noise of the shape ({len(log_ratio)}, k) for as many "
                f"rows of data, got {tuple(noise_log_ratio.shape)}."
            )
        with torch.autocast(device_type=log_ratio.device.type, enabled=False):
            data, noise = self.parts(log_ratio, noise_log_ratio, log_prob)
        return data + noise.mean(1)

    def forward(
        self, log_ratio: Tensor, noise_log_ratio: Tensor, log_prob: Tensor | None = None
    ) -> Tensor:
        """Return the loss, the mean over data plus that over noise.

        Args:
            log_ratio: Log-ratios r at data, (B,).
            noise_log_ratio: Log-ratios r at noise, (M,) or (B, k).
            log_prob: Logarithm of the noise's density at data, (B,); it moves the value alone.

        Raises:
            ValueError: Data that are no (B,).
        """
        if log_ratio.ndim != 1:
            raise ValueError(
                f"{type(self).__name__} takes log-ratios (B,) of data, got "
                f"{tuple(log_ratio.shape)}."
            )
        with torch.autocast(device_type=log_ratio.device.type, enabled=False):
            data, noise = self.parts(log_ratio, noise_log_ratio, log_prob)
        return data.sum() / max(1, data.numel()) + noise.sum() / max(1, noise.numel())

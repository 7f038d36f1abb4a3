"""Noise-contrastive estimation: a density learned by telling data from noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.energy.energy_loss import EnergyLoss
from framework.utilities.precision import FullPrecision, at_least_float32


class NCELoss(FullPrecision, EnergyLoss):
    r"""Classifies data against noise by a density that is known up to a factor.

    Of :math:`r = \log p_0 - \log q` and k draws of noise for each row of data, the log-odds of a
    row being data are :math:`G = r - \log Z - \log k`, and the loss is

    .. math:: -\tfrac1B \sum_i \log \sigma(G(x_i)) - k \, \tfrac1M \sum_j \log \sigma(-G(z_j)).

    At its minimum the density is that of the data, and Z its normalizer.

    Shapes: log_ratio (B,), noise_log_ratio (M,) or (B, k), log_prob is not used; returns a scalar.

    Paper: Gutmann and Hyvärinen, Noise-contrastive estimation of unnormalized statistical models,
    JMLR 13 (2012).

    Args:
        learn_log_z: Whether log Z is a parameter of the loss; otherwise the density is taken for
            normalized, or has a factor of its own.

    Example:
        >>> loss = NCELoss()
        >>> loss(torch.zeros(3), torch.zeros(3))  # data and noise are not told apart: 2 log 2
        tensor(1.3863, grad_fn=<AddBackward0>)
    """

    term = "nce"
    log_z: Tensor
    """Logarithm of the normalizer."""

    def __init__(self, learn_log_z: bool = True) -> None:
        super().__init__()
        self.learn_log_z = learn_log_z
        if learn_log_z:
            self.log_z = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("log_z", torch.zeros(()), persistent=False)

    def parts(
        self, log_ratio: Tensor, noise_log_ratio: Tensor, log_prob: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the terms of data, of the shape of ``log_ratio``, and those of noise."""
        log_ratio, noise_log_ratio = at_least_float32(log_ratio), at_least_float32(noise_log_ratio)
        draws = noise_log_ratio.numel() / max(1, len(log_ratio))
        shift = self.log_z + (math.log(draws) if draws else 0.0)
        return F.softplus(shift - log_ratio), draws * F.softplus(noise_log_ratio - shift)

    def logs(self) -> dict[str, Tensor]:
        """Return the logarithm of the normalizer."""
        return {"log_z": self.log_z.detach()}

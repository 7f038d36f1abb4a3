"""Contrastive divergence: the gradient of the likelihood by short Markov chains."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from framework.energy.energy_loss import EnergyLoss
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.precision import at_least_float32


def langevin(
    energy: Callable[[Tensor], Tensor], start: Tensor, noise: Tensor, step_size: float
) -> Tensor:
    r"""Return the ends of Langevin chains, without gradient.

    Each of the k steps is :math:`x \leftarrow x - s \nabla E(x) + \sqrt{2 s}\, n`, whose chain
    stays at :math:`e^{-E}` for small s.

    Args:
        energy: Function from rows (B, D) to their energies (B,).
        start: Rows (B, D) that the chains begin at.
        noise: Standard Gaussian draws n, (B, k, D).
        step_size: Size s of a step.

    Example:
        >>> start, noise = torch.tensor([[2.0]]), torch.zeros(1, 3, 1)
        >>> langevin(lambda x: x.square().sum(1) / 2, start, noise, step_size=0.5)
        tensor([[0.2500]])
    """
    x = start.detach()
    with torch.enable_grad():
        for n in noise.unbind(1):
            x.requires_grad_(True)
            (slope,) = torch.autograd.grad(energy(x).sum(), x)
            x = (x - step_size * slope + math.sqrt(2 * step_size) * n).detach()
    return x


class ContrastiveDivergenceLoss(EnergyLoss):
    r"""Lowers the energy of data and raises that of Langevin chains that begin at data.

    The loss is :math:`\tfrac1B \sum_i (E(x_i) - E(x_i^-))`, where :math:`x^-` is the end of a chain
    of k steps of ``langevin``, constant for the gradient; of the terms only that of data has a
    value. ``log_ratio`` at the chains' ends takes the place of that at noise.

    Shapes: log_ratio (B,), noise_log_ratio (M,) or (B, k), log_prob (B,); returns a scalar.

    Paper: Hinton, Training products of experts by minimizing contrastive divergence, Neural
    Computation 14 (2002), with Langevin steps in the place of Gibbs sampling.

    Args:
        steps: Steps k of a chain.
        step_size: Size s of a step, in the squared unit of the data.

    Raises:
        ValueError: ``steps`` below 1, or ``step_size`` not positive.

    Example:
        >>> ContrastiveDivergenceLoss()(torch.tensor([1.0, 3.0]), torch.tensor([5.0, 6.0]))
        tensor(-2.)
    """

    term = "contrastive_divergence"

    def __init__(self, steps: int = 20, step_size: float = 0.01) -> None:
        super().__init__()
        check_at_least(1, steps=steps)
        check_positive(step_size=step_size)
        self.steps = steps
        self.step_size = step_size

    def parts(
        self, log_ratio: Tensor, noise_log_ratio: Tensor, log_prob: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the terms of data, of the shape of ``log_ratio``, and those of the chains."""
        log_ratio, noise_log_ratio = at_least_float32(log_ratio), at_least_float32(noise_log_ratio)
        data = -log_ratio if log_prob is None else -log_ratio - at_least_float32(log_prob)
        return data, noise_log_ratio - noise_log_ratio.detach()

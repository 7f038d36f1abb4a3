"""Maximum likelihood of a density whose normalizer is a moving average."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from framework.distributed.log_average import global_log_mean_exp, log_moving_average
from framework.energy.energy_loss import EnergyLoss
from framework.losses.loss import FREE_TO_LOOK, LOOK_EVERY
from framework.utilities.checks import check_at_least, check_interval
from framework.utilities.precision import FullPrecision, at_least_float32

FEWEST = 0.05
"""Share of the noise that has to count; below it the normalizer is that of a few draws."""


class CompositionalMLELoss(FullPrecision, EnergyLoss):
    r"""Fits a density that is known up to a factor, with noise in the place of Markov chains.

    A density :math:`p_0(x)` has the normalizer :math:`Z = E_{z \sim q}[p_0(z) / q(z)]` under any
    noise density q. Its logarithm is kept as a moving average u over the batches, and of
    :math:`r = \log p_0 - \log q` at data x and at noise z the loss is

    .. math:: -\tfrac1B \sum_i \log p_0(x_i) + \log u, \quad
              u \leftarrow (1 - \gamma) u + \gamma \tfrac1M \sum_j e^{r(z_j)},

    whose gradient weighs the noise by :math:`w_j = e^{r(z_j)} / u`. The value is the estimated
    negative log-likelihood, less that of the noise where ``log_prob`` is not given. A constant in
    :math:`\log p_0` moves u alone. No weight exceeds :math:`M / \gamma`.

    u is the same on all ranks, and in the checkpoint by its logarithm. It moves in every call in
    training mode; in evaluation mode the average with the present batch is used and not kept. Of
    uneven ranks the mean over rows is that of ``per_sample``.

    A warning is given once where the effective sample size :math:`(\sum w)^2 / \sum w^2` of the
    global batch falls below 5 % of M: the noise then does not cover the model, and the parameters
    may run past the optimum.

    Shapes: log_ratio (B,), noise_log_ratio (M,) or (B, k), log_prob (B,); returns a scalar.

    Paper: Jiang et al., Learning Unnormalized Statistical Models via Compositional Optimization,
    ICML 2023, arXiv:2306.07485 (MECO). Momentum, the paper's beta, is left to the optimizer. There
    is no code of the authors.

    Args:
        gamma: Share gamma of a batch in the moving average; 1 takes the normalizer of each batch.
        warmup_steps: Steps in which the share falls linearly from 1 to ``gamma``, as an average
            over fast steps lags behind.
        energy_penalty: Factor of the mean of r^2 at data and noise, which keeps energies bounded
            where there is no noise.

    Raises:
        ValueError: ``gamma`` outside (0, 1], or another argument below 0.

    Example:
        >>> noise = torch.distributions.Normal(0.0, 1.5)
        >>> data, drawn = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 0.0, 1.0, 2.0])
        >>> log_ratio = lambda x: -((x - 0.5) ** 2) / 2 - noise.log_prob(x)
        >>> loss = CompositionalMLELoss(gamma=0.1)
        >>> loss(log_ratio(data), log_ratio(drawn), noise.log_prob(data))
        tensor(2.5532)
        >>> loss.log_u
        tensor(1.0949)
    """

    term = "nll"
    log_u: Tensor
    """Logarithm of the moving average; NaN before the first batch."""
    updates: Tensor
    effective_share: Tensor
    """Effective sample size of the latest noise over its number; NaN before the first batch."""

    def __init__(
        self, gamma: float = 0.1, warmup_steps: int = 0, energy_penalty: float = 0.0
    ) -> None:
        super().__init__()
        check_interval("(0, 1]", gamma=gamma)
        check_at_least(0, warmup_steps=warmup_steps, energy_penalty=energy_penalty)
        self.gamma = gamma
        self.warmup_steps = warmup_steps
        self.energy_penalty = energy_penalty
        self.register_buffer("log_u", torch.tensor(torch.nan))
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("effective_share", torch.tensor(torch.nan), persistent=False)
        self._calls = 0
        self._has_warned = False

    @property
    def share(self) -> Tensor:
        """Share of the next batch in the moving average."""
        if not self.warmup_steps:
            # made on the device: a number would be sent to it
            return torch.full_like(self.log_u, self.gamma)
        left = (1 - self.updates / self.warmup_steps).clamp(min=0)
        return self.gamma + (1 - self.gamma) * left

    def move(self, noise_log_ratio: Tensor) -> Tensor:
        """Return the logarithm of the average with a batch of noise, which training keeps.

        Args:
            noise_log_ratio: Log-ratios r at the noise of this rank, of any shape.
        """
        values = noise_log_ratio.detach().flatten()
        # with the square that the effective sample size takes
        mean, square = global_log_mean_exp(torch.stack([values, 2 * values], dim=1)).unbind()
        log_u = log_moving_average(self.log_u.to(mean), mean, self.share)
        if self.training:
            self.effective_share.copy_((2 * mean - square).exp())
            self.log_u.copy_(log_u)
            if self.warmup_steps:
                self.updates += 1
            self._warn_of_few(self.effective_share)
        return log_u

    def parts(
        self, log_ratio: Tensor, noise_log_ratio: Tensor, log_prob: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the terms of data, of the shape of ``log_ratio``, and those of noise."""
        log_ratio, noise_log_ratio = at_least_float32(log_ratio), at_least_float32(noise_log_ratio)
        log_u = self.move(noise_log_ratio)
        weight = (noise_log_ratio.detach() - log_u).exp()
        data = log_u - log_ratio
        if log_prob is not None:
            data = data - at_least_float32(log_prob)
        # of no value, as that of its mean is log u
        noise = weight * (noise_log_ratio - noise_log_ratio.detach())
        if self.energy_penalty:
            data = data + self.energy_penalty * log_ratio.square()
            noise = noise + self.energy_penalty * noise_log_ratio.square()
        return data, noise

    def logs(self) -> dict[str, Tensor]:
        """Return what is worth watching of the latest batch."""
        # copies, as the next step changes both in place
        return {"log_u": self.log_u.clone(), "effective_share": self.effective_share.clone()}

    def _warn_of_few(self, share: Tensor) -> None:
        self._calls += 1
        looks = share.device.type in FREE_TO_LOOK or self._calls % LOOK_EVERY == 1
        if self._has_warned or torch.compiler.is_compiling() or not looks:
            return
        if float(share) < FEWEST:
            self._has_warned = True
            warnings.warn(
                f"{float(share):.1%} of the noise counts for the normalizer, less than "
                f"{FEWEST:.0%}: take noise that covers the data and the model, or more of it.",
                stacklevel=2,
            )

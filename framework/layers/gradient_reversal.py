"""Gradient reversal: what is minimized behind it is maximized before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from framework.layers.scaled_gradient import scale_gradient
from framework.utilities.checks import check_at_least, check_interval, check_positive


def reverse_gradient(x: Tensor, coefficient: float = 1.0) -> Tensor:
    """Return ``x``, whose gradient is multiplied by ``-coefficient`` on the way back.

    A discriminator behind it is trained as usual, while the features before it are driven against
    it; with 0 they do not notice it. May be differentiated any number of times.

    Paper: Ganin et al., *Domain-Adversarial Training of Neural Networks*, JMLR 2016,
    arXiv:1505.07818.

    Args:
        x: Tensor of any shape.
        coefficient: Finite factor of the reversed gradient; what is published is at least 0.

    Raises:
        ValueError: ``coefficient`` is infinite or NaN.

    Example:
        >>> import torch
        >>> from framework.layers import reverse_gradient
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> reverse_gradient(x, coefficient=0.5).square().sum().backward()
        >>> x.grad
        tensor([-1., -2.])
    """
    check_interval("(-inf, inf)", coefficient=coefficient)
    return scale_gradient(x, -coefficient)


@dataclass(frozen=True)
class ReversalSchedule:
    r"""The coefficient of ``reverse_gradient`` in the course of a run.

    After i optimizer steps it is

    .. math:: \lambda_i = \mathrm{low}
        + (\mathrm{high} - \mathrm{low}) \left(\frac2{1 + e^{-\alpha i / N}} - 1\right),

    which rises from ``low`` and comes to within 5 % of ``high`` after 3.7 N / alpha steps. The
    first step so does not align anything if ``low`` is 0.

    Paper: Ganin et al., arXiv:1505.07818, with progress in place of i / N and alpha 10; in this
    form and with these defaults the released code of Lv et al., arXiv:2112.04137. MDD publishes
    ``high`` 0.1.

    Args:
        low: Coefficient at the start.
        high: Coefficient in the limit.
        alpha: Speed of the rise, above 0.
        num_steps: Optimizer steps N of the run.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> from framework.layers import ReversalSchedule
        >>> round(ReversalSchedule()(1000), 6)
        0.462117
    """

    low: float = 0.0
    high: float = 1.0
    alpha: float = 1.0
    num_steps: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < math.inf:
            raise ValueError(
                "A ReversalSchedule needs finite 0 <= low <= high, got "
                f"low={self.low} and high={self.high}."
            )
        check_positive(alpha=self.alpha)
        check_at_least(1, num_steps=self.num_steps)

    def __call__(self, step: int) -> float:
        """Return the coefficient after ``step`` optimizer steps."""
        # 2 / (1 + exp(-x)) - 1, which does not overflow
        return self.low + (self.high - self.low) * math.tanh(self.alpha * step / self.num_steps / 2)

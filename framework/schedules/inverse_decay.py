"""Decay by a power of the number of steps."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from framework.utilities.checks import check_at_least


class InverseDecay(LambdaLR):
    """Multiplies the learning rate of step t = 0, 1, ... by ``(1 + gamma * t) ** -power``.

    It knows no end of the run: a longer run takes the same first steps.

    Paper: Ganin et al., *Domain-Adversarial Training of Neural Networks*, JMLR 2016,
    arXiv:1505.07818, where t is the progress in [0, 1] and gamma 10; per step and with these
    defaults what domain adaptation commonly uses, as in the released code of arXiv:2112.04137.

    Args:
        optimizer: Optimizer whose learning rates are scheduled.
        gamma: Rate of the decay, at least 0; 0 is a constant learning rate.
        power: Exponent of the decay, at least 0.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = InverseDecay(optimizer, gamma=3.0, power=0.5)
        >>> optimizer.step()
        >>> schedule.step()
        >>> schedule.get_last_lr()
        [0.5]
    """

    def __init__(self, optimizer: Optimizer, gamma: float = 0.001, power: float = 0.75) -> None:
        check_at_least(0, gamma=gamma, power=power)
        super().__init__(optimizer, lambda step: (1 + gamma * step) ** -power)

"""One hyperparameter: its range, where it begins, and what number stands for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDING = 1e-4
"""How far below a whole number a value may be, by rounding, and still count as it."""


@dataclass(frozen=True)
class HyperParameter:
    r"""A number :math:`\lambda = r(h)` in a range, tuned as an unconstrained number h.

    With both bounds :math:`r(h) = a + (b - a)\,\sigma(h)`, with one of them
    :math:`a + \mathrm{softplus}(h)` or :math:`b - \mathrm{softplus}(h)`, with none h itself. A
    discrete one is rounded down, so that it takes whole numbers from ``low`` to below ``high``.

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088. Its code begins the
    length of cutout in another range than it then maps to, and so at 3 instead of 4; here the range
    is one.

    Args:
        init: Value at the beginning, inside the range and not on its border.
        low: Lower bound; left out, that of the effect where it has one, else none.
        high: Upper bound; likewise.
        discrete: Whether the value is rounded down to a whole number.
        shared: Whether all rows of a batch have one value instead of one each.

    Raises:
        ValueError: ``init`` does not lie between the bounds, a bound is not finite, or a discrete
            hyperparameter begins at a fraction.

    Example:
        >>> import torch
        >>> rate = HyperParameter(init=0.05, low=0.0, high=0.9)
        >>> round(rate.unconstrained(0.05), 6)
        -2.833213
        >>> rate.constrained(torch.tensor([-2.833213, 0.0]))
        tensor([0.0500, 0.4500])
    """

    init: float
    low: float | None = None
    high: float | None = None
    discrete: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        for name, bound in (("low", self.low), ("high", self.high)):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(
                    f"{name} must be a finite number, got {bound}; leave it out for none."
                )
        if self.discrete and self.init != math.floor(self.init):
            raise ValueError(f"init of a discrete hyperparameter must be whole, got {self.init}.")
        self.unconstrained(self.init)

    @property
    def range(self) -> tuple[float, float]:
        """The bounds, infinite where there are none."""
        low = -math.inf if self.low is None else self.low
        return low, math.inf if self.high is None else self.high

    def constrained(self, h: Tensor) -> Tensor:
        """Return the value of unconstrained numbers ``h`` of any shape."""
        if self.low is not None and self.high is not None:
            value = self.low + (self.high - self.low) * torch.sigmoid(h)
        elif self.low is not None:
            value = self.low + F.softplus(h)
        elif self.high is not None:
            value = self.high - F.softplus(h)
        else:
            value = h
        if not self.discrete:
            return value
        whole = torch.floor(value + ROUNDING)
        # a sigmoid reaches 1 by rounding
        return whole if self.high is None else whole.clamp(max=math.ceil(self.high) - 1)

    def unconstrained(self, value: float) -> float:
        """Return the number h whose value is ``value``.

        Raises:
            ValueError: ``value`` does not lie strictly between the bounds.
        """
        low, high = self.range
        if not low < value < high:
            raise ValueError(
                f"The value of a hyperparameter must lie strictly between {low:g} and {high:g}, "
                f"got {value:g}."
            )
        if self.low is not None and self.high is not None:
            return math.log((value - low) / (high - value))
        if self.low is not None:
            return inverse_softplus(value - low)
        return inverse_softplus(high - value) if self.high is not None else float(value)

    def within(
        self,
        name: str,
        default: HyperParameter,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> HyperParameter:
        """Return it with the bounds of a default in the place of those that were left out.

        Args:
            name: Name for the message.
            default: Hyperparameter whose bounds are taken, and whether it is discrete.
            low: Least value that has a meaning.
            high: Largest value that has one.

        Raises:
            ValueError: Its bounds go beyond, or ``init`` does not lie between them.
        """
        try:
            whole = replace(
                self,
                low=default.low if self.low is None else self.low,
                high=default.high if self.high is None else self.high,
                discrete=self.discrete or default.discrete,
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if whole.range[0] < low or whole.range[1] > high:
            raise ValueError(
                f"{name} must stay between {low:g} and {high:g}, but its range is "
                f"{whole.range[0]:g} to {whole.range[1]:g}."
            )
        return whole


def inverse_softplus(value: float) -> float:
    """Return h with ``softplus(h) == value``, for a positive value."""
    # log(exp(value) - 1), which overflows
    return value + math.log(-math.expm1(-value))

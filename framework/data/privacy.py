"""Noise that makes a released mean of responses differentially private."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from framework.utilities.checks import check_one_of, check_positive

MECHANISMS = ("laplace", "gaussian")


class Sensitivity(NamedTuple):
    """How far changing one response can move a released vector, in L1 and in L2 norm."""

    l1: float
    l2: float


class MeanRelease:
    r"""Adds noise to the means of disjoint bags, so that no single response can be told from them.

    The responses are label-differentially private: changing one response changes one bag's mean, by
    at most the sensitivity :math:`\Delta_1` in L1 norm and :math:`\Delta_2` in L2 norm, and every
    number of that mean gets independent noise.

    * ``'laplace'``: noise of scale :math:`\Delta_1 / \epsilon`, variance
      :math:`2 \Delta_1^2 / \epsilon^2`, is :math:`\epsilon`-private (Dwork et al. 2006).
    * ``'gaussian'``: the least standard deviation that is :math:`(\epsilon, \delta)`-private, which
      solves :math:`\Phi(\tfrac{\Delta_2}{2\sigma} - \tfrac{\epsilon\sigma}{\Delta_2}) -
      e^\epsilon \Phi(-\tfrac{\Delta_2}{2\sigma} - \tfrac{\epsilon\sigma}{\Delta_2}) = \delta`
      (Balle and Wang 2018, arXiv:1805.06530); it holds for every :math:`\epsilon`, also above 1
      where the usual :math:`\Delta_2 \sqrt{2 \ln(1.25 / \delta)} / \epsilon` fails.

    Each bag's mean may be released once: every further draw spends :math:`\epsilon` again. The
    guarantee is that of real-valued noise from a generator that nobody can guess: whoever knows the
    seed can subtract the noise, and an adversary who sees the last bits of floating-point numbers
    is not defended against.

    Args:
        epsilon: Privacy loss ε, above 0; the smaller, the more private.
        mechanism: Distribution of the noise: ``'laplace'`` or ``'gaussian'``.
        delta: Probability δ in (0, 1), for ``'gaussian'`` alone.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> from framework.data.privacy import MeanRelease, response_sensitivity
        >>> sensitivity = response_sensitivity(bag_size=10, clip=1.0)
        >>> round(MeanRelease(epsilon=1.0).noise_std(sensitivity), 4)
        0.2828
        >>> round(MeanRelease(1.0, "gaussian", delta=1e-5).noise_std(sensitivity), 4)
        0.7461
    """

    def __init__(
        self,
        epsilon: float,
        mechanism: Literal["laplace", "gaussian"] = "laplace",
        delta: float | None = None,
    ) -> None:
        check_positive(epsilon=epsilon)
        check_one_of(MECHANISMS, mechanism=mechanism)
        if mechanism == "laplace" and delta is not None:
            raise ValueError("delta has no meaning for the Laplace mechanism, whose delta is 0.")
        if mechanism == "gaussian" and (delta is None or not 0 < delta < 1):
            raise ValueError(f"The Gaussian mechanism needs a delta in (0, 1), got {delta}.")
        self.epsilon = epsilon
        self.mechanism = mechanism
        self.delta = delta
        self._unit_std = math.sqrt(2) / epsilon if delta is None else _gaussian_std(epsilon, delta)

    def noise_std(self, sensitivity: Sensitivity) -> float:
        """Return the standard deviation of the noise on each number of a mean."""
        norm = sensitivity.l1 if self.mechanism == "laplace" else sensitivity.l2
        return norm * self._unit_std

    def add_noise(self, means: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
        """Return noisy means.

        Args:
            means: Means of the bags, (M, ...), on the CPU.
            std: Standard deviation (M,) of the noise of each bag, see ``noise_std``.
            generator: Generator of the CPU; the noise is drawn in float64, in the order of the
                bags.
        """
        if self.mechanism == "gaussian":
            unit = torch.randn(means.shape, generator=generator, dtype=torch.float64)
        else:
            # the difference of two standard exponentials is a Laplace variable of variance 2
            pair = torch.empty(2, *means.shape, dtype=torch.float64)
            first, second = pair.exponential_(generator=generator)
            unit = (first - second) / math.sqrt(2)
        return (means + unit * std.view(-1, *[1] * (means.ndim - 1))).to(means.dtype)


def response_sensitivity(bag_size: int, clip: float, outputs: int = 1) -> Sensitivity:
    r"""Return how far one response in [-clip, clip] can move the mean of a bag.

    Changing one response y to y' changes the bag's mean by (y' - y) / k, where :math:`|y' - y| \le
    2C`. With T outputs, each clipped, the L1 norm is T times and the L2 norm sqrt(T) times as much.

    Args:
        bag_size: Rows k of the bag.
        clip: Bound C on the size of a response.
        outputs: Number of outputs T.
    """
    one = 2 * clip / bag_size
    return Sensitivity(one * outputs, one * math.sqrt(outputs))


def proportion_sensitivity(bag_size: int) -> Sensitivity:
    """Return how far one label can move the class proportions of a bag.

    Changing one label takes 1 / k from one class and gives it to another: 2 / k in L1 norm and
    sqrt(2) / k in L2 norm, whatever the number of classes.

    Args:
        bag_size: Rows k of the bag.
    """
    return Sensitivity(2 / bag_size, math.sqrt(2) / bag_size)


def project_to_simplex(values: Tensor) -> Tensor:
    """Return the probability vectors (M, K) nearest to ``values`` (M, K) in Euclidean distance.

    Turns noisy proportions into proportions; what is done after a release costs no privacy.
    """
    ordered = values.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - 1
    rank = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)
    # the largest entries stay above zero when all are lowered by the same amount
    kept = (ordered * rank > excess).sum(1, keepdim=True)
    return (values - excess.gather(1, kept - 1) / kept).clamp(min=0)


def _gaussian_std(epsilon: float, delta: float) -> float:
    """Return the least standard deviation for an L2 sensitivity of 1, to 12 digits."""
    low, high = 1e-12, 1.0
    while _gaussian_delta(high, epsilon) > delta:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        if _gaussian_delta(middle, epsilon) > delta:
            low = middle
        else:
            high = middle
    return high


def _gaussian_delta(std: float, epsilon: float) -> float:
    """Return the delta of Gaussian noise at ``epsilon`` and an L2 sensitivity of 1."""
    arguments = torch.tensor(
        [0.5 / std - epsilon * std, -0.5 / std - epsilon * std], dtype=torch.float64
    )
    first, second = torch.special.log_ndtr(arguments).tolist()
    # the second term in logarithms, as exp(epsilon) alone may overflow
    return math.exp(first) - math.exp(epsilon + second)

"""A distribution of torch as the noise that data is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from framework.energy.noise import REACH, Noise


class DistributionNoise(Noise):
    """A distribution of ``torch.distributions``, or of the same kind, as it is.

    It is never fitted, is in no checkpoint, and stays on the device of its own numbers, where it is
    also drawn from. With a generator the draws depend on the generator alone, and torch's global
    ones are as they were.

    A config takes it with ``--allow torch`` only, as the distribution is a class of torch.

    Args:
        distribution: Distribution of rows, of event shape (D,).
        corners: Lower and upper corner, (D,) each, of a box that holds the draws; default six
            standard deviations from the mean.

    Raises:
        ValueError: The distribution is not one of rows, or (in ``box``) has no finite mean and
            standard deviation.

    Example:
        >>> from torch.distributions import Independent, Laplace
        >>> noise = DistributionNoise(Independent(Laplace(torch.zeros(2), 1.0), 1))
        >>> noise.log_prob(torch.zeros(1, 2))  # -2 log 2
        tensor([-1.3863])
    """

    def __init__(
        self, distribution: Distribution, corners: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__()
        event, batch = tuple(distribution.event_shape), tuple(distribution.batch_shape)
        if len(event) != 1 or batch:
            raise ValueError(
                f"DistributionNoise takes a distribution of rows, of event shape (D,) and batch "
                f"shape (), got {event} and {batch}: torch.distributions.Independent makes a batch "
                "an event."
            )
        self._distribution = distribution
        self._corners = corners
        self._place = distribution.sample().device
        self.is_fitted.fill_(True)

    @property
    def distribution(self) -> Distribution:
        """The distribution itself."""
        return self._distribution

    def _log_prob(self, x: Tensor) -> Tensor:
        return self._distribution.log_prob(x.to(self._place)).to(x.device)

    def _draw(self, rows: int, generator: torch.Generator | None) -> Tensor:
        shape = torch.Size([rows])
        if generator is None:
            return self._distribution.sample(shape).to(self.is_fitted.device)
        # distributions draw from the global generators alone
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        cuda = [self._place] if self._place.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.default_generator.manual_seed(seed)
            for place in cuda:
                with torch.cuda.device(place):
                    torch.cuda.manual_seed(seed)
            return self._distribution.sample(shape).to(self.is_fitted.device)

    def box(self) -> tuple[Tensor, Tensor]:
        """Return the corners that were given, or are six standard deviations from the mean."""
        low, high = self._corners or self._usual_corners()
        device = self.is_fitted.device
        return low.to(device), high.to(device)

    def _usual_corners(self) -> tuple[Tensor, Tensor]:
        try:
            mean, reach = self._distribution.mean, REACH * self._distribution.stddev
        except NotImplementedError:
            mean = reach = torch.full(self._distribution.event_shape, torch.nan)
        if not (mean.isfinite() & reach.isfinite()).all():
            raise ValueError(
                f"{type(self._distribution).__name__} has no finite mean and standard deviation: "
                "give DistributionNoise the corners of a box that holds its draws."
            )
        return mean - reach, mean + reach

"""A mixture of Gaussians, fitted to data, as the noise that data is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from framework.energy.noise import REACH, Noise, factor, standard
from framework.utilities.checks import check_at_least, check_positive


class MixtureNoise(Noise):
    """Mixture of Gaussians with full covariances, fitted by expectation maximization.

    The fit is scikit-learn's, from a k-means start of its own seed.

    Args:
        components: Number K of Gaussians.
        widening: Factor of the standard deviations of each, after the fit.
        ridge: Variance that is added in every direction.
        fit_seed: Seed of the start; not the seed of the run.

    Raises:
        ValueError: An argument out of its range, or (in ``fit``) fewer rows than components.

    Example:
        >>> noise = MixtureNoise(components=2)
        >>> noise.allocate(1)
        >>> noise.fit(torch.tensor([[-5.1], [-4.9], [4.9], [5.1]]))
        >>> noise.means.flatten().sort().values.round(decimals=4)
        tensor([-5.,  5.])
    """

    weights: Tensor
    ends: Tensor
    """Sums of the first 1, ..., K - 1 weights; a GPU would add them up in no fixed order."""
    means: Tensor
    scale_trils: Tensor

    def __init__(
        self,
        components: int = 8,
        widening: float = 1.0,
        ridge: float = 1e-6,
        fit_seed: int = 0,
    ) -> None:
        super().__init__()
        check_at_least(1, components=components)
        check_at_least(0, ridge=ridge)
        check_positive(widening=widening)
        self.components = components
        self.widening = widening
        self.ridge = ridge
        self.fit_seed = fit_seed

    def allocate(self, size: int) -> None:
        """Make standard Gaussians."""
        number = self.components
        self.register_buffer("weights", torch.full((number,), 1 / number))
        self.register_buffer("ends", torch.arange(1, number) / number)
        self.register_buffer("means", torch.zeros(number, size))
        self.register_buffer("scale_trils", torch.eye(size).repeat(number, 1, 1))

    def _fit(self, rows: Tensor) -> None:
        from sklearn.mixture import GaussianMixture

        if len(rows) < self.components:
            raise ValueError(
                f"MixtureNoise has {self.components} components, more than the {len(rows)} "
                "training rows: take fewer."
            )
        mixture = GaussianMixture(
            self.components, reg_covar=self.ridge, random_state=self.fit_seed
        ).fit(rows.cpu().numpy())
        covariances = torch.from_numpy(mixture.covariances_) * self.widening**2
        weights = torch.from_numpy(mixture.weights_)
        self.weights.copy_(weights)
        self.ends.copy_(weights.cumsum(0)[:-1])
        self.means.copy_(torch.from_numpy(mixture.means_))
        self.scale_trils.copy_(factor(covariances))

    @property
    def distribution(self) -> MixtureSameFamily:
        """The density as torch knows it, of event shape (D,)."""
        parts = MultivariateNormal(self.means, scale_tril=self.scale_trils, validate_args=False)
        return MixtureSameFamily(
            Categorical(self.weights, validate_args=False), parts, validate_args=False
        )

    def _draw(self, rows: int, generator: torch.Generator | None) -> Tensor:
        like = self.weights
        unit = torch.rand(rows, dtype=like.dtype, device=like.device, generator=generator)
        own = torch.searchsorted(self.ends, unit, right=True)[:, None]
        drawn = standard(rows, self.means, generator)
        values = torch.zeros_like(drawn)
        # one part after the other: all factors of all rows would be rows x D x D numbers
        for k, (mean, scale_tril) in enumerate(zip(self.means, self.scale_trils, strict=True)):
            values = torch.where(own == k, mean + drawn @ scale_tril.T, values)
        return values

    def box(self) -> tuple[Tensor, Tensor]:
        """Return the corners that are six standard deviations from every mean."""
        reach = REACH * self.scale_trils.norm(dim=2)
        return (self.means - reach).amin(0), (self.means + reach).amax(0)

"""On how many tokens each feature is active, and what follows from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.sparse_coding.zipf import fit_zipf, zipf_density
from framework.utilities.checks import check_at_least, check_interval

FEWEST = 10
"""Active features below which no law is fitted."""


class FeatureDensity(Metric):
    r"""Share of the tokens of an evaluation on which each feature is active.

    ``compute`` returns

    * ``density`` (F,) float32;
    * ``dead_share``, of the features that are active on no token;
    * ``zipf_alpha``, ``zipf_beta``, ``zipf_r2``: the law ``fit_zipf`` finds
      in the densities;
    * ``underused_share``, of the features with a density below ``phi`` times what that law expects
      of their rank. Expected densities add up to the mean number of active features per token.

    With fewer than 10 active features there is no law, and what belongs to it is left out.
    Counts are exact and are added up over ranks, which may have no tokens.

    Paper: Ayonrinde, arXiv:2411.02124. Its threshold for the use of a feature is not published;
    half of what the law expects is the default.

    Args:
        num_features: Number of features F.
        phi: Share of its expected density below which a feature counts as underused, in (0, 1].
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: an argument out of its range, or counts of another shape.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.feature_density import FeatureDensity
        >>> metric = FeatureDensity(num_features=4)
        >>> metric.update(torch.tensor([3, 1, 0, 4]), torch.tensor([2, 2, 2, 2]))
        >>> values = metric.compute()
        >>> values["density"], values["dead_share"]
        (tensor([0.7500, 0.2500, 0.0000, 1.0000]), tensor(0.2500))
    """

    full_state_update = False
    counts: Tensor
    tokens: Tensor

    def __init__(self, num_features: int, phi: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_features=num_features)
        check_interval("(0, 1]", phi=phi)
        self.phi = phi
        counts = torch.zeros(num_features, dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, active_per_feature: Tensor, active_per_token: Tensor) -> None:
        """Add a batch.

        Args:
            active_per_feature: (F,) int64 number of tokens on which each feature is active.
            active_per_token: (B,) int64 number of active features of each token.
        """
        if active_per_feature.shape != self.counts.shape or active_per_token.ndim != 1:
            raise ValueError(
                f"FeatureDensity takes counts ({len(self.counts)},) of features and (B,) of "
                f"tokens, got {tuple(active_per_feature.shape)} and "
                f"{tuple(active_per_token.shape)}."
            )
        self.counts += active_per_feature
        self.tokens += len(active_per_token)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name; without any token both are NaN."""
        density = self.counts.double() / self.tokens
        dead = (self.counts == 0).double().mean()
        values = {"dead_share": torch.where(self.tokens > 0, dead, torch.nan)}
        if int((self.counts > 0).sum()) >= FEWEST:
            fit = fit_zipf(density)
            expected = zipf_density(len(density), float(density.sum()), fit.alpha, fit.beta)
            measured = density.sort(descending=True).values.cpu()
            under = (measured < self.phi * expected).double().mean()
            found = {"zipf_alpha": fit.alpha, "zipf_beta": fit.beta, "zipf_r2": fit.r2}
            values |= {name: dead.new_tensor(value) for name, value in found.items()}
            values["underused_share"] = under.to(dead)
        return {name: v.float() for name, v in values.items()} | {"density": density.float()}

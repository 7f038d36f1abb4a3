"""How many features a token uses, as a distribution over tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least
from framework.utilities.counts import count_values

QUANTILES = (0.05, 0.5, 0.95)


class L0(Metric):
    """Mean, standard deviation and quantiles of the number of active features of a token.

    ``compute`` returns ``l0``, ``l0_std``, ``l0/5_percent`` to ``l0/95_percent``, which a figure
    draws together with the mean, and ``l0_histogram`` (F + 1,) int64, the number of tokens with 0,
    1, ..., F active features. Counts are exact and are added up over ranks, which may have no
    tokens. A q-quantile is the smallest count that a share q of the
    tokens does not exceed.

    Args:
        num_features: Number of features F.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_features`` below 1, or counts that are not (B,) integers.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.l0 import L0
        >>> metric = L0(num_features=8)
        >>> metric.update(torch.tensor([1, 3, 3, 5]))
        >>> values = metric.compute()
        >>> values["l0"], values["l0_std"], values["l0/50_percent"]
        (tensor(3.), tensor(1.4142), tensor(3.))
    """

    full_state_update = False
    histogram: Tensor

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_features=num_features)
        counts = torch.zeros(num_features + 1, dtype=torch.int64)
        self.add_state("histogram", counts, dist_reduce_fx="sum")

    def update(self, active_per_token: Tensor) -> None:
        """Add a batch.

        Args:
            active_per_token: (B,) int64 number of active features of each token.
        """
        if active_per_token.ndim != 1 or active_per_token.is_floating_point():
            raise ValueError(
                f"L0 takes counts (B,), got {active_per_token.dtype} of shape "
                f"{tuple(active_per_token.shape)}."
            )
        self.histogram += count_values(active_per_token, len(self.histogram))

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name; those of the distribution are NaN without any token."""
        counts = torch.arange(len(self.histogram), device=self.histogram.device).double()
        tokens = self.histogram.sum()
        share = self.histogram.double() / tokens
        mean = share @ counts
        values = {"l0": mean, "l0_std": (share @ (counts - mean).square()).sqrt()}
        reached = self.histogram.cumsum(0)
        for q in QUANTILES:
            place = (reached < q * tokens).sum().double()
            values[f"l0/{round(100 * q)}_percent"] = torch.where(tokens > 0, place, torch.nan)
        return {name: v.float() for name, v in values.items()} | {"l0_histogram": self.histogram}

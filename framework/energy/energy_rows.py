"""The energies of all rows of an evaluation, and what they say of likelihood and outliers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from framework.metrics.row_metric import RowMetric


class Energies(NamedTuple):
    """Energies of N rows.

    Args:
        energy: Energies -log p0, (N,) float64.
        noise: Energies under the noise, -log q, (N,) float64.
        true: Energies under the true density, (N,) float64, NaN where it is not known.
        is_outlier: Whether a row is an outlier, (N,) bool.
    """

    energy: Tensor
    noise: Tensor
    true: Tensor
    is_outlier: Tensor

    def scores(self, log_z: Tensor, name: str) -> dict[str, Tensor]:
        """Return the negative log-likelihood of rows that are no outliers, and the AUROC.

        Args:
            log_z: Logarithm of the normalizer of the energies.
            name: Name of the likelihood.

        Example:
            >>> rows = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
            >>> found = Energies(rows, 0 * rows, torch.nan * rows, rows > 5)
            >>> scores = found.scores(torch.tensor(0.5), "nll")
            >>> {key: round(float(value), 4) for key, value in scores.items()}
            {'nll': 2.0, 'nll/noise': 0.0, 'auroc': 1.0, 'auroc/noise': 0.5}
        """
        inside = ~self.is_outlier
        values = {
            name: self.energy[inside].mean() + log_z,
            f"{name}/noise": self.noise[inside].mean(),
            f"{name}/true": self.true[inside].mean(),
        }
        if self.true[inside].isnan().any():
            del values[f"{name}/true"]
        if self.is_outlier.any() and inside.any():
            # ranks, as the functional form takes numbers outside of [0, 1] for logits
            for key, energy in (("auroc", self.energy), ("auroc/noise", self.noise)):
                values[key] = binary_auroc(_ranks(energy), self.is_outlier.long())
        return values


class EnergyRows(RowMetric):
    """Keeps the energies of every row; memory grows with the evaluated set, by 25 bytes a row.

    ``compute`` returns ``Energies``.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> metric = EnergyRows()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]))
        >>> metric.compute().energy
        tensor([1., 2.], dtype=torch.float64)
    """

    energy: list[Tensor]
    is_outlier: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        empty = {
            "energy": torch.zeros(0, 3, dtype=torch.float64),
            "is_outlier": torch.zeros(0, dtype=torch.bool),
        }
        super().__init__(empty, **kwargs)

    def update(
        self,
        energy: Tensor,
        noise: Tensor,
        true: Tensor | None = None,
        is_outlier: Tensor | None = None,
    ) -> None:
        """Add rows.

        Args:
            energy: Energies -log p0, (B,).
            noise: Energies under the noise, (B,).
            true: Energies under the true density, (B,), where it is known.
            is_outlier: Whether a row is an outlier, (B,) bool; default none is.
        """
        true = torch.full_like(energy, torch.nan) if true is None else true
        self.energy.append(torch.stack([energy, noise, true], dim=1).detach().double())
        none = torch.zeros_like(energy, dtype=torch.bool)
        self.is_outlier.append(none if is_outlier is None else is_outlier)

    def compute(self) -> Energies:
        """Return the energies of all rows of all ranks."""
        energy, noise, true = self.joined("energy").unbind(1)
        return Energies(energy, noise, true, self.joined("is_outlier"))


def _ranks(values: Tensor) -> Tensor:
    """Return values in [0, 1] of the same order, with the same ties."""
    _, place = values.unique(sorted=True, return_inverse=True)
    return place / place.max().clamp(min=1)

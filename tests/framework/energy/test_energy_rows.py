"""What energies say of likelihood and outliers, over batches and ranks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from framework.distributed.collectives import rank
from framework.energy import Energies, EnergyRows
from tests.helpers.ranks import TwoRanks


def test_outliers_count_in_the_area_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    energy = torch.randn(50, generator=generator, dtype=torch.float64) * 100
    noise = torch.randn(50, generator=generator, dtype=torch.float64)
    outlier = torch.arange(50) >= 40
    found = Energies(energy, noise, 0 * energy + 7, outlier).scores(torch.tensor(2.0), "nll")
    torch.testing.assert_close(found["nll"], energy[:40].mean() + 2)
    torch.testing.assert_close(found["nll/noise"], noise[:40].mean())
    assert float(found["nll/true"]) == 7
    pairs = (energy[40:, None] > energy[None, :40]).double().mean()
    torch.testing.assert_close(found["auroc"].double(), pairs, atol=1e-6, rtol=0)
    wanted = binary_auroc(noise.sigmoid(), outlier.long())
    torch.testing.assert_close(found["auroc/noise"], wanted)


def test_without_outliers_or_a_true_density_there_is_neither() -> None:
    row = torch.ones(3, dtype=torch.float64)
    found = Energies(row, row, row * math.nan, row > 5).scores(torch.tensor(0.0), "nll_estimate")
    assert list(found) == ["nll_estimate", "nll_estimate/noise"]


def gathered(rows: int) -> Tensor:
    """Return the energies of both ranks, of which the second has no row."""
    metric = EnergyRows()
    if rank() == 0:
        metric.update(torch.arange(float(rows)), torch.zeros(rows))
    return metric.compute().energy


def test_a_rank_may_have_no_row(two_ranks: TwoRanks) -> None:
    for found in two_ranks(gathered, 3):
        assert found.tolist() == [0.0, 1.0, 2.0]


def test_batches_are_joined() -> None:
    metric = EnergyRows()
    metric.update(torch.ones(2), torch.ones(2), torch.ones(2), torch.tensor([True, False]))
    metric.update(torch.ones(1), torch.ones(1))
    found = metric.compute()
    assert found.is_outlier.tolist() == [True, False, False]
    assert found.true.isnan().tolist() == [False, False, True]
    assert found.energy.dtype == torch.float64
    assert pytest.approx(3) == float(found.energy.sum())

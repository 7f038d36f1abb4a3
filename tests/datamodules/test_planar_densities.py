"""Points of the plane come with their true density, and with outliers where asked for."""

from __future__ import annotations

import pytest
import torch

from datamodules import PlanarDensities
from framework.energy import PLANAR
from tests.datamodules.test_whole_set import joined


def test_points_are_drawn_from_the_density_and_the_same_in_every_run() -> None:
    first, again = PlanarDensities(num_points=40), PlanarDensities(num_points=40)
    for data in (first, again):
        data.setup("fit")
    found, other = joined(first.train_dataloader()), joined(again.train_dataloader())
    assert torch.equal(found["input"], other["input"])
    true = PLANAR["eight_gaussians"].log_prob(found["input"].double()).float()
    torch.testing.assert_close(found["log_density"], true, atol=1e-4, rtol=1e-4)
    assert [len(part) for part in (first.train_set, first.val_set, first.test_set)] == [40, 10, 10]
    assert not torch.equal(first.val_set.fields["input"], first.test_set.fields["input"])
    assert not first.has_outliers


@pytest.mark.parametrize("density", list(PLANAR))
def test_outliers_are_where_no_row_is(density: str) -> None:
    data = PlanarDensities(density, num_points=80, outliers=0.5)  # type: ignore[arg-type]
    data.setup("fit")
    found = joined(data.val_dataloader())
    outlier = found["is_outlier"]
    assert int(outlier.sum()) == 10
    assert found["log_density"][outlier].max() < found["log_density"][~outlier].min()
    assert "is_outlier" not in joined(data.train_dataloader())


def test_raw_points_and_wrong_arguments() -> None:
    assert PlanarDensities().as_batch([[0, 1]])["input"].dtype == torch.float32
    with pytest.raises(ValueError, match="density must be one of eight_gaussians, rings"):
        PlanarDensities("spirals")  # type: ignore[arg-type]

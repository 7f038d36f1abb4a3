"""Points in the plane from densities that are known in closed form."""

from __future__ import annotations

from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor

from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import ArrayDataset, Batch
from framework.data.raw_inputs import as_rows
from framework.energy.planar_densities import PLANAR, PlanarDensity
from framework.utilities.checks import check_at_least, check_one_of
from framework.utilities.randomness import stable_seed

Shape = Literal["eight_gaussians", "rings", "moons", "pinwheel", "checkerboard"]
POOL = 16
"""Points of the square that are drawn for one that lies outside of the data."""


class PlanarDensities(DataModule):
    """Points in the plane from a density with a closed form, the same in every run.

    Batches hold ``input`` (B, 2) float32, ``log_density`` (B,) float32, the logarithm of the true
    density there, and ``index`` (B,) int64. Validation and test have a quarter of the training
    points each and, where outliers are asked for, ``is_outlier`` (B,) bool: these are uniform on
    the square that holds the data, where the density is below that of every row of the set.

    The remaining arguments are those of ``DataModule``.

    Args:
        density: Density: ``eight_gaussians``, ``rings``, ``moons``, ``pinwheel`` or
            ``checkerboard``.
        num_points: Training points.
        outliers: Share of further points in validation and test that are outliers, of the others.

    Raises:
        ValueError: Another density, fewer than 8 points, or a negative share.

    Example:
        >>> data = PlanarDensities("rings", num_points=64, outliers=0.5)
        >>> data.setup("fit")
        >>> sorted(next(iter(data.train_dataloader())))
        ['index', 'input', 'log_density']
        >>> next(iter(data.val_dataloader()))["is_outlier"].sum()  # of 16 points and 8 outliers
        tensor(8)
    """

    input_shape = (2,)

    def __init__(
        self,
        density: Shape = "eight_gaussians",
        num_points: int = 4096,
        outliers: float = 0.0,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        check_one_of(get_args(Shape), density=density)
        check_at_least(8, num_points=num_points)
        check_at_least(0, outliers=outliers)
        self.density = density
        self.num_points = num_points
        self.outliers = outliers

    @property
    def has_outliers(self) -> bool:
        """Whether evaluation has rows that are marked as outliers."""
        return self.outliers > 0

    @property
    def true_density(self) -> PlanarDensity:
        """Density that the points are drawn from."""
        return PLANAR[self.density]

    def setup(self, stage: str | None = None) -> None:
        """Draw the points once, for all stages."""
        if self.train_set is not None:
            return
        rows = self.num_points
        self.train_set = self._rows(self._draw("train", rows))
        self.val_set = self._evaluated("val", rows // 4)
        self.test_set = self.predict_set = self._evaluated("test", rows // 4)

    def log_density(self, points: Tensor) -> Tensor:
        """Return the logarithm of the true density at points (..., 2)."""
        return self.true_density.log_prob(points)

    def as_batch(self, inputs: Any) -> Batch:
        """Return points (N, 2) as a batch."""
        return {"input": as_rows(inputs, 2).float()}

    def _draw(self, part: str, rows: int) -> Tensor:
        return self.true_density.sample(rows, self._generator(part))

    def _generator(self, part: str) -> torch.Generator:
        return torch.Generator().manual_seed(stable_seed("planar", self.density, part))

    def _evaluated(self, part: str, rows: int) -> ArrayDataset:
        points = self._draw(part, rows)
        if not self.has_outliers:
            return self._rows(points)
        wanted = round(self.outliers * rows)
        generator = self._generator(f"{part} outliers")
        unit = torch.rand(POOL * wanted, 2, generator=generator, dtype=torch.float64)
        pool = self.true_density.extent * (2 * unit - 1)
        outside = pool[self.log_density(pool) < self.log_density(points).min()][:wanted]
        points = torch.cat([points, outside])
        return self._rows(points, is_outlier=torch.arange(len(points)) >= rows)

    def _rows(self, points: Tensor, **fields: Tensor) -> ArrayDataset:
        log_density = self.log_density(points).float()
        return ArrayDataset(input=points.float(), log_density=log_density, **fields)

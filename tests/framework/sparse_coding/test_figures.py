"""Figures of a sparse code show what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from framework.figures.style import save_png
from framework.sparse_coding.figures import active_features, feature_density
from framework.sparse_coding.zipf import ZipfFit, zipf_density

pytestmark = pytest.mark.pictures


def test_the_rank_plot_shows_every_density_and_the_law() -> None:
    density = zipf_density(200, k=5.0, alpha=1.2, beta=2.0)
    shuffled = density[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    shuffled[7] = 0
    figure = feature_density(shuffled, ZipfFit(1.2, 2.0, 0.99))
    left, right = figure.axes
    measured, law = right.lines
    expected = shuffled[shuffled > 0].sort(descending=True).values
    np.testing.assert_allclose(measured.get_ydata(), expected)
    assert measured.get_xdata().tolist() == list(range(1, 200))
    total = float(shuffled.sum())
    np.testing.assert_allclose(law.get_ydata(), zipf_density(200, total, 1.2, 2.0))
    heights = [bar.get_height() for bar in left.patches]
    assert sum(heights) == 199
    assert "200 features, 1 of them never active (0.5%)" in figure.get_suptitle()


def test_the_bars_add_up_to_all_tokens() -> None:
    histogram = torch.zeros(101, dtype=torch.int64)
    histogram[[3, 4, 9]] = torch.tensor([10, 20, 10])
    (axes,) = active_features(histogram).axes
    bars = {round(b.get_x() + 0.5): b.get_height() for b in axes.patches if b.get_height()}
    assert bars == {3: 0.25, 4: 0.5, 9: 0.25}
    assert axes.lines[0].get_xdata()[0] == pytest.approx(5)
    assert "40 tokens; mean 5.00, standard deviation 2.35" in axes.get_title(loc="left")
    wide = torch.ones(1001, dtype=torch.int64)
    (axes,) = active_features(wide).axes
    assert len(axes.patches) <= 61
    assert sum(b.get_height() for b in axes.patches) == pytest.approx(1)


@pytest.mark.parametrize("active", [0, 1, 2])
def test_almost_nothing_can_be_drawn(active: int, tmp_path: Path) -> None:
    density = torch.zeros(5)
    density[:active] = 1.0
    histogram = torch.zeros(6, dtype=torch.int64)
    histogram[active] = active
    for figure in (feature_density(density), active_features(histogram)):
        save_png(figure, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert min(image.size) > 300

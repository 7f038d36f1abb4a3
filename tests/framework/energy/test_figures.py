"""Figures of densities and energies show what they are given."""

from __future__ import annotations

import pytest
import torch

from framework.energy import Energies
from framework.energy.figures import density_panels, energy_histogram, shown_range
from framework.energy.plane_view import PlaneView


def view() -> PlaneView:
    """A density on the middle half of [-4, 4] x [0, 8], under wider noise."""
    learned = torch.zeros(8, 8)
    learned[2:6, 2:6] = 1.0
    noise = torch.full((8, 8), 1 / 64)
    return PlaneView((-4.0, 4.0, 0.0, 8.0), {"learned": learned, "noise": noise}, torch.zeros(3, 2))


def test_the_picture_is_of_where_the_density_is() -> None:
    # four cells of the density, and a fifth of them on either side
    (left, right), (low, high) = shown_range(view())
    assert (left, right) == pytest.approx((-2.8, 2.8))
    assert (low, high) == pytest.approx((1.2, 6.8))


@pytest.mark.pictures
def test_panels_have_one_scale_and_the_draws_are_on_the_last() -> None:
    figure = density_panels(view())
    assert [axes.get_title() for axes in figure.axes] == ["learned", "noise"]
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0.0, 1.0)}
    assert [len(axes.collections) for axes in figure.axes] == [0, 1]


@pytest.mark.pictures
def test_outliers_have_bars_of_their_own() -> None:
    energy = torch.arange(20, dtype=torch.float64)
    for outlier, names in (
        (energy > 15, ["evaluated rows", "outliers"]),
        (energy > 99, ["evaluated rows"]),
    ):
        (axes,) = energy_histogram(Energies(energy, energy, energy, outlier)).axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == names

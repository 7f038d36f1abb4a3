import math

import pytest
import torch

from framework.contrastive.class_temperatures import class_temperatures
from framework.contrastive.temperature_figure import temperature_figure

LABEL = torch.tensor([0, 0, 0, 2, 2, 3, -1])
TEMPERATURE = torch.tensor([0.5, 0.6, 0.7, 0.3, 0.5, math.nan, 0.9])


def test_means_and_percentiles_of_the_visited_samples():
    found = class_temperatures(TEMPERATURE, LABEL)
    assert found.samples.tolist() == [3, 0, 2]
    torch.testing.assert_close(found.mean, torch.tensor([0.6, math.nan, 0.4]), equal_nan=True)
    assert found.low[[0, 2]].tolist() == pytest.approx([0.52, 0.32])
    assert found.high[[0, 2]].tolist() == pytest.approx([0.68, 0.48])
    # torchmetrics adds a little to its divisor
    assert float(found.correlation) == pytest.approx(1.0, abs=1e-4)


def test_correlation_is_of_ranks():
    label = torch.arange(4).repeat_interleave(torch.tensor([4, 3, 2, 1]))
    temperature = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.2, 0.2, 0.2, 0.3, 0.3, 0.1])
    found = class_temperatures(temperature, label)
    # two neighbors of four are exchanged: 1 - 6 * 2 / (4 * 15)
    assert float(found.correlation) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("label", [[0, 0, 1, 1], [2, 2, 2, 2], [-1, -1, -1, -1]])
def test_equal_frequencies_have_no_correlation(label):
    found = class_temperatures(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor(label))
    assert math.isnan(found.correlation)


@pytest.mark.pictures
def test_the_figure_names_the_classes():
    figure = temperature_figure(class_temperatures(TEMPERATURE, LABEL), ["cat", "dog", "cow"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["cat", "cow"]
    assert axes.get_title() == (
        "mean, and 10th to 90th percentile, of 2 classes; rank correlation 1.00"
    )

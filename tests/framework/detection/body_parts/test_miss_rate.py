"""Log-average miss rate."""

import math

import pytest
import torch

from framework.detection.body_parts import log_average_miss_rate, miss_rate_curve
from framework.detection.body_parts.miss_rate import FPPI_GRID, miss_rate_up_to
from framework.detection.body_parts.miss_rate_figure import miss_rate_over_fppi
from framework.figures.style import save_png


def rate_of(correct: str, positives: int, images: int, reading: str = "up_to") -> float:
    hits = torch.tensor([letter == "+" for letter in correct], dtype=torch.bool)
    return log_average_miss_rate(*miss_rate_curve(hits, positives, images), reading).item()


def test_worked_example() -> None:
    assert rate_of("+-+-", 3, 2) == pytest.approx(0.571496, abs=5e-7)
    # the first pair that reaches a reference is the first wrong one; at 0.5623 and 1 the second
    value = math.exp((7 * math.log(2 / 3) + 2 * math.log(1 / 3)) / 9)
    assert rate_of("+-+-", 3, 2, "from") == pytest.approx(value)


@pytest.mark.parametrize("reading", ["up_to", "from"])
def test_perfect_and_nothing(reading: str) -> None:
    assert rate_of("+++", 3, 2, reading) == 0
    assert rate_of("", 3, 2, reading) == 1
    assert rate_of("--", 3, 2, reading) == 1


def test_before_the_first_detection_everything_is_missed() -> None:
    # one image: the first, wrong detection exceeds every reference but the last
    assert rate_of("-++", 4, 1) == pytest.approx(0.5 ** (1 / 9))
    assert rate_of("--++++", 4, 1) == 1
    # 100 images: the first false positive lies exactly on the first reference
    assert rate_of("-+", 2, 100) == pytest.approx(0.5)
    assert rate_of("-+", 2, 99) == pytest.approx(0.5 ** (8 / 9))


def test_from_takes_the_first_that_reaches_a_reference() -> None:
    # 10 images: 0.1, then 0.2 and 0.3; from 0.3162 on the last detection counts
    rates = [3 / 4] * 5 + [2 / 4] * 1 + [1 / 4] * 3
    expected = math.exp(sum(math.log(rate) for rate in rates) / 9)
    assert rate_of("+-+-+-", 4, 10, "from") == pytest.approx(expected)


def test_unknown_reading() -> None:
    with pytest.raises(ValueError, match="reading must be one of from, up_to, got 'at'"):
        rate_of("+", 1, 1, "at")


@pytest.mark.pictures
def test_the_figure_leaves_out_what_has_no_objects(tmp_path) -> None:
    correct = torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.6
    body = miss_rate_up_to(FPPI_GRID, *miss_rate_curve(correct, 260, 30))
    lines = {"body": body, "face": body * math.nan, "head": (body * 1.3).clamp(max=1)}
    lines["perfect"] = 0 * body
    averages = {"body": 0.4, "face": math.nan, "head": 0.52, "perfect": 0.0}
    figure = miss_rate_over_fppi(FPPI_GRID, lines, averages)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["body: 40.0%", "head: 52.0%", "perfect: 0.0%"]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    save_png(figure, tmp_path / "miss_rate.png")
    nothing = miss_rate_over_fppi(FPPI_GRID, {"face": body * math.nan}, {"face": math.nan})
    assert nothing.axes[0].get_legend() is None

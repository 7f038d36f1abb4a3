"""Log-average miss rate."""

import math

import pytest
import torch

from framework.detection.body_parts import log_average_miss_rate, miss_rate_curve


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

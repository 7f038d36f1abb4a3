"""Average precision of ranked detections."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.detection.average_precision import (
    average_precision,
    interpolated_precision,
    precision_recall,
    recall_grid,
)


def of_the_kit(correct: list[bool], positives: int, rule: str) -> float:
    """Compute with loops over the definitions."""
    found = np.cumsum(correct)
    recall = found / positives
    precision = found / np.arange(1, len(correct) + 1)
    if rule != "voc12":
        grid = np.arange(0.0, 1.1, 0.1) if rule == "voc07" else np.linspace(0, 1, 101)
        reached = [precision[recall >= t] for t in grid]
        return float(np.mean([p.max() if len(p) else 0.0 for p in reached]))
    area, before = 0.0, 0.0
    for k, value in enumerate(recall):
        area += (value - before) * precision[k:].max()
        before = value
    return area


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 20))
def test_against_the_definitions(correct: list[bool], missed: int) -> None:
    positives = max(1, sum(correct) + missed)
    curve = precision_recall(torch.tensor(correct, dtype=torch.bool), positives)
    for rule in ("voc07", "voc12", "coco101"):
        value = float(average_precision(*curve, rule))
        assert abs(value - of_the_kit(correct, positives, rule)) < 1e-12


def test_worked_values() -> None:
    # precision 1, 1/2, 2/3 at recall 1/4, 1/4, 1/2
    curve = precision_recall(torch.tensor([True, False, True]), 4)
    assert abs(average_precision(*curve, "voc12") - (1 / 4 + 1 / 4 * 2 / 3)) < 1e-15
    # 0, 0.1, 0.2 at precision 1, 0.3, 0.4, 0.5 at 2/3
    assert abs(average_precision(*curve, "voc07") - (3 + 3 * 2 / 3) / 11) < 1e-15
    assert abs(average_precision(*curve, "coco101") - (26 + 25 * 2 / 3) / 101) < 1e-15


def test_a_recall_of_three_tenths_is_below_the_fourth_point() -> None:
    # 3 * 0.1 exceeds 3 / 10 by a rounding, in the kit as here
    curve = precision_recall(torch.ones(3, dtype=torch.bool), 10)
    assert abs(average_precision(*curve, "voc07") - 3 / 11) < 1e-15


def test_the_curve_never_rises_and_ends_where_recall_does() -> None:
    curve = precision_recall(torch.tensor([False, True, True, False]), 4)
    values = interpolated_precision(*curve, recall_grid(5, torch.device("cpu")))
    torch.testing.assert_close(values, torch.tensor([2 / 3, 2 / 3, 2 / 3, 0, 0]).double())


def test_another_rule_is_refused() -> None:
    empty = torch.zeros(0, dtype=torch.float64)
    with pytest.raises(ValueError, match="interpolation must be one of"):
        average_precision(empty, empty, "voc10")

"""The condition number of features over batches and ranks."""

from __future__ import annotations

import math

import pytest
import torch

from framework.metrics.condition_number import ConditionNumber


def test_batches_are_one_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 5, generator=generator)
    metric = ConditionNumber(5)
    for rows in features.split(4):
        metric.update(rows)
    assert float(metric.compute()) == pytest.approx(float(torch.linalg.cond(features.double())))


def test_more_features_than_rows_and_a_rank_too_low() -> None:
    metric = ConditionNumber(3)
    metric.update(torch.zeros(0, 3))
    assert math.isnan(metric.compute())
    metric.reset()
    metric.update(torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert float(metric.compute()) == pytest.approx(3)
    metric.update(torch.tensor([[0.0, 0.0, 0.0]]))
    # a smallest value of 0, or what rounding leaves of it
    assert float(metric.compute()) > 1e14


def test_float64_where_float32_could_not_tell() -> None:
    metric = ConditionNumber(2)
    metric.update(torch.tensor([[1.0, 0.0], [0.0, 1e-9]]).double())
    assert float(metric.compute()) == pytest.approx(1e9, rel=1e-5)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(B, 2\), got \(4, 3\)"):
        ConditionNumber(2).update(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="num_features must be at least 1"):
        ConditionNumber(0)

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import r2_score

from framework.metrics.r2_score import R2Score

GENERATOR = torch.Generator().manual_seed(0)
TARGETS = torch.randn(12, 3, generator=GENERATOR, dtype=torch.float64)
PREDICTIONS = TARGETS + 0.5 * torch.randn(12, 3, generator=GENERATOR, dtype=torch.float64)


def measure(predictions, targets, cuts=(), **kwargs):
    metric = R2Score(**kwargs)
    for start, stop in zip([0, *cuts], [*cuts, len(targets)], strict=True):
        metric.update(predictions[start:stop], targets[start:stop])
    return float(metric.compute())


@pytest.mark.parametrize("unit", [1e-30, 1e-4, 1.0, 1e25])
def test_no_unit_hides_a_bad_prediction(unit):
    targets = torch.tensor([-1.0, 0.0, 1.0]) * unit
    assert measure(-targets, targets) == pytest.approx(-3)
    assert measure(targets, targets) == 1
    assert measure(torch.zeros(3), targets) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("cuts", [(), (1,), (0, 5, 5, 11), (12,)])
@pytest.mark.parametrize(("unit", "offset"), [(1e-30, 0), (1.0, 0.0), (1e25, 0), (1.0, 1e9)])
def test_is_scikit_learns_however_the_rows_are_cut(cuts, unit, offset):
    predictions, targets = PREDICTIONS * unit + offset, TARGETS * unit + offset
    exact = r2_score(TARGETS.numpy(), PREDICTIONS.numpy())
    assert measure(predictions, targets, cuts, num_outputs=3) == pytest.approx(exact, abs=2e-7)
    for column in (0, slice(1)):
        exact = r2_score(TARGETS[:, 0].numpy(), PREDICTIONS[:, 0].numpy())
        found = measure(predictions[:, column], targets[:, column], cuts)
        assert found == pytest.approx(exact, abs=2e-7)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e25, 0.1 * 1e-30])
def test_a_constant_target_has_none_and_is_left_out(value):
    constant = torch.full((12,), value, dtype=torch.float64)
    assert np.isnan(measure(constant, constant, (5, 7)))
    assert np.isnan(measure(constant + 1, constant, (5, 7)))
    both = torch.stack([TARGETS[:, 0], constant], 1)
    predictions = torch.stack([PREDICTIONS[:, 0], constant + 1], 1)
    alone = measure(PREDICTIONS[:, 0], TARGETS[:, 0], (5, 7))
    assert measure(predictions, both, (5, 7), num_outputs=2) == pytest.approx(alone)


def test_no_row_or_a_nan_gives_nan():
    assert np.isnan(measure(torch.zeros(0), torch.zeros(0)))
    assert np.isnan(measure(torch.tensor([0.0, torch.nan]), torch.tensor([0.0, 1.0])))


def share(split):
    """Return the score over all ranks, of which the first holds ``split`` rows."""
    rows = slice(split) if dist.get_rank() == 0 else slice(split, 12)
    metric = R2Score(num_outputs=3)
    metric.update(PREDICTIONS[rows] + 1e6, TARGETS[rows] + 1e6)
    return metric.compute()


@pytest.mark.parametrize("split", [5, 12])
def test_ranks_give_the_score_of_all_rows(split, two_ranks):
    exact = r2_score(TARGETS.numpy(), PREDICTIONS.numpy())
    for value in two_ranks(share, split):
        assert float(value) == pytest.approx(exact, abs=2e-7)


def test_other_shapes_are_refused():
    row, table = torch.zeros(4), torch.zeros(4, 2)
    with pytest.raises(ValueError, match="num_outputs must be at least 1, got 0"):
        R2Score(0)
    for predictions, targets in [(row, row[:, None]), (table, table), (row[:3], row)]:
        with pytest.raises(ValueError, match=r"T = 1, got \("):
            R2Score().update(predictions, targets)

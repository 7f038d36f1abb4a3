"""Averages in log space: exact where the exponential overflows, and the same on two ranks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.distributed.collectives import rank
from framework.distributed.log_average import global_log_mean_exp, log_moving_average

NUMBERS = st.lists(st.floats(-20, 20), min_size=1, max_size=8)


@given(NUMBERS, NUMBERS, st.floats(0, 1))
def test_averages_as_plain_numbers_do(old, new, rate):
    size = min(len(old), len(new))
    a = torch.tensor(old[:size], dtype=torch.float64)
    b = torch.tensor(new[:size], dtype=torch.float64)
    plain = (1 - rate) * a.exp() + rate * b.exp()
    torch.testing.assert_close(log_moving_average(a, b, rate).exp(), plain, rtol=1e-12, atol=1e-12)


def test_worked_number_of_the_robust_contrastive_loss():
    mean = log_moving_average(torch.tensor(1.2).log(), torch.tensor(1.369542).log(), 0.8)
    assert float(mean.exp()) == pytest.approx(1.335633, abs=1e-6)


def test_large_numbers_do_not_overflow():
    mean = log_moving_average(torch.tensor(1000.0), torch.tensor(1001.0), 0.5)
    assert float(mean) == pytest.approx(1001 + math.log(0.5 * (1 + math.exp(-1))), abs=1e-4)


@pytest.mark.parametrize(("rate", "kept"), [(0.0, "old"), (1.0, "new")])
def test_limits_of_the_rate(rate, kept):
    values = {"old": torch.tensor([3.0, -2.0]), "new": torch.tensor([-5.0, 7.0])}
    torch.testing.assert_close(log_moving_average(values["old"], values["new"], rate), values[kept])


def test_first_visit_takes_the_new_value():
    mean = log_moving_average(torch.tensor([math.nan, 0.0]), torch.tensor([4.0, 0.0]), 0.25)
    torch.testing.assert_close(mean, torch.tensor([4.0, 0.0]))


def test_rate_outside_the_interval_is_refused():
    with pytest.raises(ValueError, match="rate"):
        log_moving_average(torch.zeros(1), torch.zeros(1), 1.5)


def test_mean_over_one_process():
    values = torch.tensor([800.0, 801.0, 799.0])
    expected = 800 + math.log((1 + math.e + 1 / math.e) / 3)
    assert float(global_log_mean_exp(values)) == pytest.approx(expected, abs=1e-4)


def test_columns_have_means_of_their_own():
    values = torch.tensor([[800.0, 1.0], [801.0, 1.0], [799.0, 1.0]])
    expected = [global_log_mean_exp(column) for column in values.unbind(1)]
    torch.testing.assert_close(global_log_mean_exp(values), torch.stack(expected))
    assert global_log_mean_exp(values[:0]).tolist() == [-math.inf] * 2


def test_mean_of_nothing():
    assert float(global_log_mean_exp(torch.empty(0))) == -math.inf
    assert float(global_log_mean_exp(torch.full((2,), -math.inf))) == -math.inf


def mean_of_uneven_rows() -> float:
    rows = (torch.tensor([1.0, 2.0, 900.0]), torch.empty(0))[rank()]
    return float(global_log_mean_exp(rows))


def test_two_ranks_have_the_mean_of_all_rows(two_ranks):
    assert two_ranks(mean_of_uneven_rows) == pytest.approx([900 - math.log(3)] * 2, abs=1e-4)

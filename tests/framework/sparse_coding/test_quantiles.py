"""Thresholds from histograms: close to the exact ones, and the same on two ranks."""

import math

import pytest
import torch
from torch import Tensor

from framework.distributed.collectives import rank
from framework.sparse_coding import quantiles
from framework.sparse_coding.quantiles import PositiveHistogram


def values(n: int = 60_000) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0)).abs() * 3


@pytest.mark.parametrize(("bits", "tolerance"), [(12, 0.001), (6, 0.003)])
def test_as_many_values_lie_above_as_wanted(bits: int, tolerance: float) -> None:
    x = values()
    group = torch.arange(len(x)) % 3
    histogram = PositiveHistogram(groups=3, bits=bits)
    for part in range(0, len(x), 7_000):
        histogram.add(group[part : part + 7_000], x[part : part + 7_000])
    wanted = torch.tensor([19_000.0, 2_000.0, 5.0])
    found = histogram.thresholds(wanted)
    for g in range(3):
        above = int((x[group == g] > found[g]).sum())
        assert abs(above - float(wanted[g])) <= max(2, tolerance * float(wanted[g]))


def test_the_limits() -> None:
    histogram = PositiveHistogram(groups=3, bits=6)
    histogram.add(torch.tensor([0, 0, 1]), torch.tensor([1.0, 2.0, 5.0]))
    found = histogram.thresholds(torch.tensor([3.0, 0.0, 1.0])).tolist()
    assert found[0] == 0
    assert found[1] >= 5
    assert found[2] == math.inf


def test_values_outside_the_octaves_are_counted() -> None:
    histogram = PositiveHistogram(groups=1, bits=6)
    histogram.add(torch.zeros(4, dtype=torch.int64), torch.tensor([1e-40, 1e-9, 1e9, 3e38]))
    assert 2**11 <= float(histogram.thresholds(torch.tensor([2.0]))) <= 2**12


def test_many_groups_are_looked_at_in_blocks_and_cost_little(monkeypatch) -> None:
    x = values()
    group = torch.arange(len(x)) % 40
    wanted = torch.linspace(0, 2000, 40)
    one = PositiveHistogram(groups=40, bits=6)
    one.add(group, x)
    assert one.counts.numel() * one.counts.element_size() == 40 * 8 * 1024
    whole = one.thresholds(wanted)
    monkeypatch.setattr(quantiles, "_BLOCK", 7 * one.bins)
    assert torch.equal(one.thresholds(wanted), whole)
    assert torch.equal(one.totals(), torch.full((40,), 1_500))


def on_a_rank(x: Tensor, cut: int) -> tuple[Tensor, Tensor]:
    own = x[:cut] if rank() == 0 else x[cut:]
    histogram = PositiveHistogram(groups=1, bits=12)
    histogram.add(torch.zeros(len(own), dtype=torch.int64), own)
    return histogram.thresholds(torch.tensor([1_000.0])), histogram.totals()


@pytest.mark.parametrize("cut", [0, 20_000])
def test_two_ranks_find_what_one_process_does(cut: int, two_ranks) -> None:
    x = values()
    for found, total in two_ranks(on_a_rank, x, cut):
        assert torch.equal(found, on_a_rank(x, len(x))[0])
        assert total.tolist() == [len(x)]

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.distributed.collectives import rank
from framework.sparse_coding.l0 import L0
from tests.helpers.sae_example import mask


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_the_distribution_is_numpys(counts):
    metric = L0(num_features=12)
    for part in torch.tensor(counts).split(7):
        metric.update(part)
    values = metric.compute()
    assert float(values["l0"]) == pytest.approx(np.mean(counts), rel=1e-6)
    assert float(values["l0_std"]) == pytest.approx(np.std(counts), rel=1e-5, abs=1e-6)
    for q in (5, 50, 95):
        # in whole numbers, since 0.05 * 20 rounds either way in floats
        place = max(-(-q * len(counts) // 100), 1) - 1
        expected = sorted(counts)[place]
        assert float(values[f"l0/{q}_percent"]) == expected
    assert values["l0_histogram"].tolist() == np.bincount(counts, minlength=13).tolist()


def test_rules_differ_in_the_spread_alone():
    found = {}
    for rule in ("topk", "mutual", "feature"):
        metric = L0(num_features=4)
        metric.update(mask(rule).sum(1))
        found[rule] = metric.compute()
    assert {float(v["l0"]) for v in found.values()} == {2}
    assert float(found["topk"]["l0_std"]) == 0
    assert float(found["mutual"]["l0_std"]) == pytest.approx((2 / 3) ** 0.5)


def of_this_rank(split):
    counts = torch.tensor([0, 1, 1, 4, 2])
    metric = L0(num_features=4)
    metric.update(counts[:split] if rank() == 0 else counts[split:])
    return metric.compute()


@pytest.mark.parametrize("split", [2, 5])
def test_ranks_add_up(split, two_ranks):
    for values in two_ranks(of_this_rank, split):
        assert values["l0_histogram"].tolist() == [1, 2, 1, 0, 1]
        assert float(values["l0"]) == pytest.approx(1.6)


def test_without_tokens_there_is_no_distribution():
    metric = L0(num_features=3)
    metric.update(torch.empty(0, dtype=torch.int64))
    values = metric.compute()
    assert all(v.isnan() for name, v in values.items() if name != "l0_histogram")


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_features must be at least 1, got 0"):
        L0(0)
    for counts in (torch.ones(3), torch.ones(3, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"L0 takes counts \(B,\), got"):
            L0(4).update(counts)

"""Batches of labeled and unlabeled rows: their shares, whole epochs, and slices of ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.data.labeled_sampling import LabeledBatchSampler


def batches(sampler, epoch=0):
    sampler.start = lambda: (epoch, 0)
    return [[row for _, row in batch] for batch in sampler]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 9), st.data(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_and_each_slice_its_share(labeled, others, size, data, world_size):
    share = data.draw(st.integers(1, size - 1))
    found = batches(LabeledBatchSampler(labeled, others, size, share))
    rows = torch.tensor([row for batch in found for row in batch])
    known = rows < labeled
    for kind, count in ((rows[known], labeled), (rows[~known] - labeled, others)):
        times = kind.bincount(minlength=count)
        assert times.min() >= 1, "all came"
        assert times.max() - times.min() <= 1, "none came again before all came"
    for batch in found[:-1]:
        assert (len(batch), sum(row < labeled for row in batch)) == (size, share)
    last = sum(row < labeled for row in found[-1])
    assert 1 <= last < len(found[-1]) <= size
    slices = [
        batches(LabeledBatchSampler(labeled, others, size, share, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    for whole, *parts in zip(found, *slices, strict=True):
        assert [row for part in parts for row in part] == whole
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        counts = [sum(row < labeled for row in part) for part in parts]
        assert max(counts) - min(counts) <= 1
    full = batches(LabeledBatchSampler(labeled, others, size, share, drop_last=True))
    assert full == [batch for batch in found if len(batch) == size]


def test_orders_follow_the_epoch_the_seed_and_the_kind():
    sampler = LabeledBatchSampler(6, 20, 6, 2)
    assert batches(sampler) == batches(LabeledBatchSampler(6, 20, 6, 2))
    assert batches(sampler) != batches(sampler, 1)
    assert batches(sampler) != batches(LabeledBatchSampler(6, 20, 6, 2, seed=1))
    known = [row for batch in batches(sampler) for row in batch if row < 6]
    assert known[:6] != known[6:]  # another order each time the rows are through
    sampler.start = lambda: (1, 3)
    assert [[row for _, row in batch] for batch in sampler] == batches(sampler, 1)[3:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 2, 4, 4), "A batch of 4 rows needs from 1 to 3 labeled ones"),
        ((2, 2, 4, 0), "A batch of 4 rows needs from 1 to 3 labeled ones"),
        ((0, 2, 4, 1), "got 0 labeled and 2 unlabeled ones"),
        ((2, 0, 4, 1), "got 2 labeled and 0 unlabeled ones"),
    ],
)
def test_what_has_no_batches_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabeledBatchSampler(*arguments)

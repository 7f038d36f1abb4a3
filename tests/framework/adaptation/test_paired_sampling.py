from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.adaptation.paired_sampling import PairedBatchSampler

ROWS = st.tuples(st.integers(1, 30), st.integers(1, 30))  # of the source and of the target
HALF = st.integers(1, 12)  # of a batch
STREAM = st.tuples(st.integers(0, 3), st.integers(0, 3))  # seed, epoch


def stream(rows, batch_size, epoch=0, skip=0, **arguments):
    sampler = PairedBatchSampler(*rows, batch_size, start=lambda: (epoch, skip), **arguments)
    batches = list(sampler)
    assert len(sampler) == len(batches) + min(skip, len(sampler)), "the length is the epoch's"
    assert all(key[0] == epoch for batch in batches for key in batch)
    return [[row for _, row in batch] for batch in batches]


@settings(max_examples=40, deadline=None)
@given(ROWS, HALF, STREAM)
def test_an_epoch_is_the_longer_domain_once_and_the_other_again_and_again(rows, half, key):
    batches = stream(rows, 2 * half, seed=key[0], epoch=key[1])
    longest, shortest = max(rows), min(rows)
    assert [len(batch) for batch in batches[:-1]] == [2 * half] * (len(batches) - 1)
    assert sum(map(len, batches)) == 2 * longest, "no row is left out"
    flat = torch.tensor(list(chain.from_iterable(batches)))
    domains = [flat[::2], flat[1::2] - rows[0]]  # source and target in turn, in every batch
    for domain, size in zip(domains, rows, strict=True):
        counts = torch.bincount(domain, minlength=size)
        assert len(counts) == size
        assert counts.min() >= longest // size
        assert counts.max() <= -(-longest // size)
    short = domains[rows.index(shortest)]
    for cycle in short.split(shortest):
        assert len(cycle.unique()) == len(cycle), "every row, before any comes again"


@settings(max_examples=40, deadline=None)
@given(ROWS, HALF, st.integers(1, 4), st.integers(0, 4), st.booleans(), STREAM)
def test_ranks_share_the_batches_and_see_both_domains(rows, half, world_size, skip, drop, key):
    arguments = {"seed": key[0], "epoch": key[1], "skip": skip, "drop_last": drop}
    alone = stream(rows, 2 * half, **arguments)
    ranks = [
        stream(rows, 2 * half, rank=rank, world_size=world_size, **arguments)
        for rank in range(world_size)
    ]
    for batch, slices in zip(alone, zip(*ranks, strict=True), strict=True):
        assert list(chain.from_iterable(slices)) == batch, "in the order of one process"
        for part in slices:
            assert sum(row < rows[0] for row in part) == len(part) / 2
        assert max(map(len, slices)) - min(map(len, slices)) <= 2


@settings(max_examples=30, deadline=None)
@given(ROWS, HALF, st.integers(0, 6), STREAM)
def test_a_stream_is_continued_where_it_stood(rows, half, skip, key):
    arguments = {"seed": key[0], "epoch": key[1]}
    whole = stream(rows, 2 * half, **arguments)
    assert stream(rows, 2 * half, skip=skip, **arguments) == whole[skip:]
    full = [batch for batch in whole if len(batch) == 2 * half]
    assert stream(rows, 2 * half, drop_last=True, **arguments) == full


def test_orders_are_a_function_of_seed_epoch_domain_and_cycle():
    def orders(**arguments):
        rows = torch.tensor(list(chain.from_iterable(stream((20, 60), 12, **arguments))))
        return [tuple(cycle.tolist()) for cycle in (rows[::2]).split(20)], rows[1::2] - 20

    first, target = orders()
    again, same = orders()
    assert first == again
    assert torch.equal(target, same)
    assert len({*first, *orders(epoch=1)[0], *orders(seed=1)[0]}) == 9, "nine different orders"
    equal = torch.tensor(list(chain.from_iterable(stream((40, 40), 8))))
    assert not torch.equal(equal[::2], equal[1::2] - 40), "the domains have orders of their own"
    # the order of a domain does not depend on the other's size, nor on the batches
    other = torch.tensor(list(chain.from_iterable(stream((20, 33), 4))))
    assert tuple(other[::2][:20].tolist()) == first[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 3, 5), "batch_size must be even, .* and at least 2, got 5"),
        ((3, 3, 0), "at least 2, got 0"),
        ((3, 3, -2), "at least 2, got -2"),
        ((0, 3, 4), "Both domains need rows, got 0 of the source and 3 of the target"),
        ((3, 0, 4), "got 3 of the source and 0 of the target"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PairedBatchSampler(*arguments)

"""The order of tokens: every token once, mixed, the same on any number of ranks and restarts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.activations.sampler import GroupBatchSampler


def rows(batches: GroupBatchSampler) -> list[list[int]]:
    return [[row for _, row in batch] for batch in batches]


@settings(max_examples=50, deadline=None)
@given(
    num_samples=st.integers(1, 200),
    group_rows=st.integers(1, 20),
    window_groups=st.integers(1, 9),
    shards=st.integers(1, 4),
    share=st.integers(1, 7),
    skip=st.integers(0, 30),
)
def test_every_row_comes_once_and_ranks_and_restarts_change_nothing(
    num_samples, group_rows, window_groups, shards, share, skip
) -> None:
    if -(-num_samples // group_rows) < shards:
        return

    def make(rank=0, world_size=1, epoch=3, start=0):
        return GroupBatchSampler(
            num_samples,
            share * shards,
            group_rows=group_rows,
            window_groups=window_groups,
            shards=shards,
            seed=5,
            rank=rank,
            world_size=world_size,
            start=lambda: (epoch, start),
        )

    whole = rows(make())
    assert len(whole) == len(make())
    assert sorted(row for batch in whole for row in batch) == list(range(num_samples))
    assert all(len(batch) <= share * shards for batch in whole)
    assert rows(make(start=skip)) == whole[skip:]
    for world_size in (2, 3, 4):
        parts = [rows(make(rank, world_size)) for rank in range(world_size)]
        joined = [[row for part in batch for row in part] for batch in zip(*parts, strict=True)]
        assert joined == whole
        if shards % world_size == 0:
            groups = [{row // group_rows for batch in part for row in batch} for part in parts]
            assert sum(map(len, groups)) == len(set().union(*groups))


def test_only_the_groups_of_a_window_are_mixed() -> None:
    batches = GroupBatchSampler(120, 10, group_rows=10, window_groups=3, seed=1)
    stream = [row for batch in rows(batches) for row in batch]
    for start in range(0, 120, 30):
        assert len({row // 10 for row in stream[start : start + 30]}) == 3
    assert {row // 10 for row in stream[:10]} != {stream[0] // 10}
    assert [row // 10 for row in stream] != sorted(row // 10 for row in stream)


def test_epochs_and_seeds_differ() -> None:
    def order(seed, epoch):
        batches = GroupBatchSampler(
            60, 60, group_rows=5, window_groups=4, seed=seed, start=lambda: (epoch, 0)
        )
        return tuple(rows(batches)[0])

    assert len({order(0, 0), order(0, 1), order(1, 0)}) == 3
    assert order(2, 2) == order(2, 2)


def test_the_last_batches_may_be_left_out() -> None:
    batches = GroupBatchSampler(55, 8, group_rows=5, window_groups=2, shards=2, drop_last=True)
    # 11 groups: shard 1 has 25 rows, which are 6 whole parts of 4
    assert [len(batch) for batch in rows(batches)] == [8] * 6


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="shards=3 must divide batch_size=8"):
        GroupBatchSampler(100, 8, group_rows=5, window_groups=2, shards=3)
    with pytest.raises(ValueError, match="shards=4 are more than the 2 groups of 5 rows"):
        GroupBatchSampler(10, 8, group_rows=5, window_groups=2, shards=4)

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.data.bag_sampling import BagSampler, assign_bags
from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset
from framework.data.samplers import GlobalBatchSampler, WeightedBatchSampler


@st.composite
def bagged(draw):
    """Return the bag of every row, all numbers up to the largest used."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    return torch.tensor(draw(st.permutations([b for b, k in enumerate(sizes) for _ in range(k)])))


STREAM = st.tuples(st.integers(0, 3), st.integers(0, 3))  # seed, epoch


def stream(bags, batch_size, epoch=0, skip=0, **arguments):
    sampler = BagSampler(bags, batch_size, start=lambda: (epoch, skip), **arguments)
    batches = list(sampler)
    assert all(key[0] == epoch for batch in batches for key in batch)
    return [[row for _, row in batch] for batch in batches]


@settings(max_examples=40, deadline=None)
@given(bagged(), st.integers(1, 20), STREAM)
def test_batches_are_whole_bags_and_an_epoch_is_every_row_once(bags, batch_size, key):
    batches = stream(bags, batch_size, seed=key[0], epoch=key[1])
    assert sorted(chain.from_iterable(batches)) == list(range(len(bags)))
    assert len(batches) == len(BagSampler(bags, batch_size))
    counts = torch.bincount(bags)
    for batch in batches:
        found, sizes = bags[torch.tensor(batch)].unique(return_counts=True)
        assert torch.equal(sizes, counts[found])
        # the rows of a bag stand together, in ascending order
        assert batch == [
            row for bag in dict.fromkeys(bags[batch].tolist()) for row in batch_rows(bags, bag)
        ]
    per_batch = max(1, int(batch_size / (len(bags) / len(counts))))
    assert all(len(bags[batch].unique()) == per_batch for batch in batches[:-1])


def batch_rows(bags, bag):
    return torch.nonzero(bags == bag).flatten().tolist()


@settings(max_examples=40, deadline=None)
@given(bagged(), st.integers(1, 20), st.integers(1, 4), st.integers(0, 4), STREAM)
def test_ranks_share_the_batches_and_never_a_bag(bags, batch_size, world_size, skip, key):
    arguments = {"seed": key[0], "epoch": key[1], "skip": skip}
    alone = stream(bags, batch_size, **arguments)
    ranks = [
        stream(bags, batch_size, rank=rank, world_size=world_size, **arguments)
        for rank in range(world_size)
    ]
    for batch, slices in zip(alone, zip(*ranks, strict=True), strict=True):
        assert list(chain.from_iterable(slices)) == batch
        found = [set(bags[torch.tensor(part, dtype=torch.int64)].tolist()) for part in slices]
        assert sum(map(len, found)) == len(set().union(*found))
        assert max(map(len, found)) - min(map(len, found)) <= 1


def test_bags_of_one_row_are_the_plain_stream():
    plain = list(GlobalBatchSampler(23, 5, shuffle=True, seed=3))
    assert list(BagSampler(torch.arange(23), 5, seed=3)) == plain


def test_order_is_a_function_of_seed_and_epoch():
    bags = torch.arange(12).repeat_interleave(2)
    orders = [
        tuple(chain.from_iterable(stream(bags, 6, seed=seed, epoch=epoch)))
        for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]
    ]
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


def test_the_place_is_read_when_iteration_starts():
    place = [0, 0]
    sampler = BagSampler(torch.arange(4), 1, start=lambda: tuple(place))
    batches = iter(sampler)
    place[0] = 7
    assert next(batches)[0][0] == 0
    assert next(iter(sampler))[0][0] == 7


@pytest.mark.parametrize(
    ("bags", "batch_size", "message"),
    [
        ([0, 2, 2], 4, "Every bag from 0 to the largest number must have a row"),
        ([], 4, "must have a row"),
        ([0, 0, 1], 0, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments(bags, batch_size, message):
    with pytest.raises(ValueError, match=message):
        BagSampler(torch.tensor(bags, dtype=torch.int64), batch_size)


def test_a_datamodule_chooses_its_sampler():
    class Pairs(DataModule):
        train_set = ArrayDataset(label=torch.arange(8))

        def train_sampler(self):
            return BagSampler(torch.arange(8) // 2, self.batch_size, seed=self.seed)

    for batch in Pairs(batch_size=4).train_dataloader():
        assert torch.equal(
            batch["label"] + 1 - 2 * (batch["label"] % 2),
            batch["label"].view(2, 2).flip(1).flatten(),
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 3))
def test_no_bag_is_smaller_than_asked_for(rows, size, seed):
    if size > rows:
        with pytest.raises(ValueError, match=rf"bag_size must lie in 1\.\.{rows}, .* got {size}"):
            assign_bags(rows, size, seed)
        return
    sizes = torch.bincount(assign_bags(rows, size, seed))
    assert sizes.sum() == rows
    assert len(sizes) == rows // size
    assert size <= sizes.min() <= sizes.max() <= sizes.min() + 1


def test_bags_are_random_and_follow_the_seed():
    first, again, other = (assign_bags(40, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, first.sort().values)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=1, max_size=30), st.integers(1, 9), STREAM
)
def test_weighted_rows_are_the_same_on_any_number_of_ranks(weights, batch_size, key):
    weights = torch.tensor(weights)
    if not weights.any():
        with pytest.raises(ValueError, match="some of them positive"):
            WeightedBatchSampler(weights, batch_size)
        return

    def batches(**arguments):
        start = {"seed": key[0], "start": lambda: (key[1], 0)}
        return list(WeightedBatchSampler(weights, batch_size, **start, **arguments))

    alone = batches()
    assert sum(map(len, alone)) == len(weights)
    assert all(weights[row] > 0 for batch in alone for _, row in batch)
    ranks = [batches(rank=rank, world_size=3) for rank in range(3)]
    assert [list(chain.from_iterable(slices)) for slices in zip(*ranks, strict=True)] == alone


def test_weighted_rows_are_drawn_in_proportion():
    weights = torch.arange(5.0)
    drawn = torch.tensor(
        [
            row
            for epoch in range(400)
            for batch in WeightedBatchSampler(weights, 5, seed=epoch)
            for _, row in batch
        ]
    )
    assert (drawn.bincount(minlength=5) / 200).tolist() == pytest.approx(weights.tolist(), abs=0.5)

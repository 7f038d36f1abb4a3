"""States of all classes, joined from parts and cut into them."""

from copy import deepcopy

import pytest
import torch

from framework.distributed.collectives import rank, world_size
from framework.embedding.heads import CosFaceHead, SoftmaxHead, SubCenterArcFaceHead
from tests.framework.embedding.heads.toys import random_batch, random_head

HEADS = [
    (CosFaceHead, {"scale": 8.0, "sample_rate": 0.5}),
    (SoftmaxHead, {}),
    (SubCenterArcFaceHead, {"scale": 8.0, "centers": 3}),
]


def train(make, options, state, start):
    """Train two steps, from a state if there is one, and return that of all classes."""
    head = random_head(make, **options)
    ranks = world_size()
    if ranks > 1:
        head.shard(rank(), ranks)
    if state is not None:
        head.load_state_dict(state)
    for step in (start, start + 1):
        x, y = (part.tensor_split(ranks)[rank()] for part in random_batch(9, 6, 7, seed=step))
        loss, _ = head(x, y)
        head.zero_grad()
        (loss * len(x) / 9 * ranks).backward()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.sub_(0.1 * parameter.grad)
    return deepcopy(head.full_state_dict())


@pytest.mark.parametrize(("make", "options"), HEADS)
def test_training_goes_on_with_another_number_of_ranks(two_ranks, make, options):
    one = train(make, options, None, 0)
    whole = train(make, options, one, 2)
    two, other = two_ranks(train, make, options, None, 0)
    close = {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(two, one, **close)
    assert not {"weight", "bias"} & other.keys()
    torch.testing.assert_close(train(make, options, two, 2), whole, **close)
    torch.testing.assert_close(two_ranks(train, make, options, one, 2)[0], whole, **close)


def test_a_head_in_one_part_is_whole():
    head = random_head(CosFaceHead)
    head.shard(0, 1)
    assert head.sharded_parameters() == {}
    assert torch.equal(head.full_state_dict()["weight"], head.weight)


def test_what_makes_no_parts():
    head = random_head(CosFaceHead)
    head.shard(0, 2)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        head.load_state_dict(random_head(CosFaceHead, classes=8).state_dict())
    with pytest.raises(RuntimeError, match="already in 2 parts"):
        head.shard(0, 2)
    with pytest.raises(ValueError, match="2 classes make no 3 parts"):
        random_head(CosFaceHead, classes=2).shard(0, 3)

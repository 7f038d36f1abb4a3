"""Two ranks give what one process gives: whole heads, heads in parts, samples of classes."""

import pytest
import torch

from framework.distributed.collectives import all_reduce_sum, gather, gather_with_grad, rank
from framework.embedding.heads import ArcFaceHead, CosFaceHead, NormFaceHead
from tests.framework.embedding.heads.toys import random_batch, random_head

HEADS = {
    "normface": (NormFaceHead, {"scale": 8.0, "learnable_scale": True}),
    "cosface": (CosFaceHead, {"scale": 8.0, "filter_threshold": 0.4}),
    "arcface": (ArcFaceHead, {"scale": 8.0}),
}
SLICES = [[3, 5], [0, 8], [8, 0]]
PLACES = [(False, 1.0), (True, 1.0), (False, 0.6), (True, 0.6), (True, 0.01)]


def steps_of(make, options, sharded, counts, negatives, steps=2):
    """Return per step: mean loss, gradients of embeddings and parameters, logs, state."""
    head = random_head(make, **options)
    ranks = len(counts)
    if sharded:
        head.shard(rank(), ranks)
    result = []
    for step in range(steps):
        x, y = random_batch(8, 6, 7, seed=step)
        x = x * 20
        x = x.split(counts)[rank()].requires_grad_()
        y = y.split(counts)[rank()]
        a = None
        if negatives:
            pairs = gather_with_grad(x)
            a = (pairs @ pairs.T / 400).tanh().sum()
        loss, logs = head(x, y, a)
        head.zero_grad()
        # as the base of all modules: each rank's share, times W, and then the mean over ranks
        (loss * len(x) / 8 * ranks).backward()
        grads = {name: p.grad for name, p in head.named_parameters()}
        for name, grad in grads.items():
            if name in head.sharded_parameters():
                grads[name] = gather(grad)
            else:
                grads[name] = all_reduce_sum(grad) / ranks
        logs = {k: all_reduce_sum(v * len(x) / 8) for k, v in logs.items()}
        state = {k: v.clone() for k, v in head.named_buffers()}
        value = all_reduce_sum(loss * len(x) / 8)
        result.append((value, gather(x.grad) / ranks, grads, logs, state))
    return result


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("sharded", "sample_rate"), PLACES)
def test_two_ranks_equal_one_process(two_ranks, name, sharded, sample_rate):
    make, options = HEADS[name]
    options = {**options, "sample_rate": sample_rate}
    for counts in SLICES:
        for negatives in {False, make.takes_negatives}:
            one = steps_of(make, options, False, [8], negatives)
            for two in two_ranks(steps_of, make, options, sharded, counts, negatives):
                torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-12)

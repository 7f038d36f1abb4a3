"""Two ranks give what one process gives: whole heads, heads in parts, samples of classes."""

import pytest
import torch

from framework.distributed.collectives import all_reduce_sum, gather, gather_with_grad, rank
from framework.embedding import heads
from tests.framework.embedding.heads.toys import random_batch, random_head

HEADS = {
    "softmax": (heads.SoftmaxHead, {}),
    "normface": (heads.NormFaceHead, {"scale": 8.0, "learnable_scale": True}),
    "sphereface": (heads.SphereFaceHead, {"filter_threshold": 0.4}),
    "cosface": (heads.CosFaceHead, {"scale": 8.0, "filter_threshold": 0.4}),
    "arcface": (heads.ArcFaceHead, {"scale": 8.0}),
    "combined": (heads.CombinedMarginHead, {"scale": 8.0}),
    "magface": (heads.MagFaceHead, {"scale": 8.0}),
    "curricularface": (heads.CurricularFaceHead, {"scale": 8.0}),
    "sface": (heads.SFaceHead, {"scale": 8.0, "slope": 3.0}),
    "adaface": (heads.AdaFaceHead, {"scale": 8.0}),
    "subcenter": (heads.SubCenterArcFaceHead, {"scale": 8.0, "centers": 2}),
    "hyperspherical": (heads.HypersphericalHead, {"constraint": "project"}),
}
EVERYWHERE = ("cosface", "curricularface", "sface", "adaface")
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


def cases_of(name):
    """Yield arguments of ``steps_of``: all for the heads with their own sums over ranks."""
    make, options = HEADS[name]
    whole = name in EVERYWHERE
    for sharded, rate in PLACES if whole else [(False, 1.0), (True, 0.6)]:
        for counts in ([3, 5], [0, 8], [8, 0]) if whole else ([3, 5],):
            negatives = make.takes_negatives and (rate < 1 or not whole)
            yield make, {**options, "sample_rate": rate}, sharded, counts, negatives


def on_two_ranks(name):
    return [steps_of(*case) for case in cases_of(name)]


@pytest.mark.parametrize("name", HEADS)
def test_two_ranks_equal_one_process(two_ranks, name):
    one = [
        steps_of(make, options, False, [8], negatives)
        for make, options, _, _, negatives in cases_of(name)
    ]
    for two in two_ranks(on_two_ranks, name):
        torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-12)


def evaluate(counts, make, options):
    """Return this rank's logits, losses of rows and the gradients of all embeddings."""
    head = random_head(make, reduction="none", **options).eval()
    if len(counts) > 1:
        head.shard(rank(), 2)
    x, y = (part.split(counts)[rank()] for part in random_batch(8, 6, 7))
    x.requires_grad_()
    logits = head.logits(x)
    rows = head(x, y)[0]
    (slopes,) = torch.autograd.grad(logits.square().sum() + rows.sum(), x)
    return logits, rows, slopes


@pytest.mark.parametrize("name", ["softmax", "sface", "subcenter"])
def test_evaluation_in_parts(two_ranks, name):
    one = evaluate([8], *HEADS[name])
    first, second = two_ranks(evaluate, [3, 5], *HEADS[name])
    for whole, *parts in zip(one, first, second, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-11, atol=1e-12)

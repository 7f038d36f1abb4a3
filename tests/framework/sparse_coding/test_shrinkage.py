import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.distributed.collectives import rank
from framework.sparse_coding.shrinkage import (
    L2Ratio,
    ReconstructionCosine,
    RelativeReconstructionBias,
)

KINDS = (ReconstructionCosine, L2Ratio, RelativeReconstructionBias)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(20, 4, generator=GENERATOR)
R = X + 0.5 * torch.randn(20, 4, generator=GENERATOR)


def by_hand():
    x, r = X.double(), R.double()
    dot = (x * r).sum(1)
    return [
        float((dot / x.norm(dim=1) / r.norm(dim=1)).mean()),
        float((r.norm(dim=1) / x.norm(dim=1)).mean()),
        float(r.square().sum() / dot.sum()),
    ]


def measured(found, target):
    metrics = [kind() for kind in KINDS]
    for metric in metrics:
        metric.update(found[:7], target[:7])
        metric.update(found[7:], target[7:])
    return [float(metric.compute()) for metric in metrics]


def test_definitions():
    assert measured(R, X) == pytest.approx(by_hand(), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(0.01, 10))
def test_a_shorter_copy_is_parallel_and_short(factor):
    # of a copy times c, both ratios are c
    assert measured(factor * X, X) == pytest.approx([1, factor, factor], rel=1e-5)


def test_the_bias_is_the_factor_off_the_best_length():
    best = (X * R).sum() / R.square().sum()
    assert measured(best * R, X)[2] == pytest.approx(1, rel=1e-5)


def of_this_rank(split):
    rows = slice(split) if rank() == 0 else slice(split, 20)
    return measured(R[rows], X[rows])


@pytest.mark.parametrize("split", [9, 20])
def test_two_ranks_find_what_one_finds(split, two_ranks):
    for values in two_ranks(of_this_rank, split):
        assert values == pytest.approx(by_hand(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_shapes_and_no_rows(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__} takes two tensors \(B, d\)"):
        kind().update(X, X[:3])
    metric = kind()
    metric.update(X[:0], X[:0])
    assert metric.compute().isnan()

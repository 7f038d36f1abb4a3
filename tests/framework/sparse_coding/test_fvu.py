import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.distributed.collectives import rank
from framework.sparse_coding.fvu import FractionVarianceUnexplained
from tests.helpers.sae_example import RULES, X, reconstruction


@pytest.mark.parametrize("rule", RULES)
def test_the_worked_example(rule):
    metric = FractionVarianceUnexplained(size=2)
    metric.update(reconstruction(rule), X)
    assert float(metric.compute()) == pytest.approx(RULES[rule][1], abs=1e-6)


def drawn(rows=40):
    generator = torch.Generator().manual_seed(0)
    x = 100 + torch.randn(rows, 5, generator=generator)
    return x + 0.3 * torch.randn(rows, 5, generator=generator), x


def by_hand(found, x):
    found, x = found.double(), x.double()
    return float((x - found).square().sum() / (x - x.mean(0)).square().sum())


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=4))
def test_the_mean_is_that_of_all_batches_however_they_are_cut(cuts):
    found, x = drawn()
    metric = FractionVarianceUnexplained(size=5)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        metric.update(found[start:stop], x[start:stop])
    # the variance is a hundredth of a percent of the squares that it is the difference of
    assert float(metric.compute()) == pytest.approx(by_hand(found, x), rel=1e-6)


def test_the_mean_itself_leaves_all_the_variance():
    _, x = drawn()
    metric = FractionVarianceUnexplained(size=5)
    metric.update(x.mean(0).expand(40, 5), x)
    assert float(metric.compute()) == pytest.approx(1, rel=1e-6)
    metric.reset()
    metric.update(x, x)
    assert float(metric.compute()) == 0


def of_this_rank(split):
    rows = slice(split) if rank() == 0 else slice(split, 40)
    found, x = drawn()
    metric = FractionVarianceUnexplained(size=5)
    metric.update(found[rows], x[rows])
    return metric.compute()


@pytest.mark.parametrize("split", [13, 40])
def test_two_ranks_find_what_one_finds(split, two_ranks):
    for value in two_ranks(of_this_rank, split):
        assert float(value) == pytest.approx(by_hand(*drawn()), rel=1e-6)


def test_other_shapes_are_refused():
    metric = FractionVarianceUnexplained(size=5)
    for a, b in [((3, 5), (2, 5)), ((3, 4), (3, 4)), ((5,), (5,))]:
        with pytest.raises(ValueError, match=r"takes two tensors \(B, 5\), got"):
            metric.update(torch.zeros(a), torch.zeros(b))

import pytest
import torch

from framework.distributed.collectives import rank
from framework.sparse_coding.nmse import NMSEOpenAI, NMSERatio
from tests.helpers.sae_example import RULES, X, reconstruction


@pytest.mark.parametrize("rule", RULES)
def test_the_worked_example(rule):
    for metric, expected in ((NMSEOpenAI(), RULES[rule][2]), (NMSERatio(), RULES[rule][3])):
        for row in (slice(0), slice(2), slice(2, 3)):
            metric.update(reconstruction(rule)[row], X[row])
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", [NMSERatio, NMSEOpenAI])
def test_nothing_but_zeros_misses_everything(kind):
    metric = kind()
    metric.update(torch.zeros(3, 2), X)
    assert float(metric.compute()) == 1
    metric.reset()
    metric.update(X[:0], X[:0])
    assert metric.compute().isnan()


def test_only_the_mean_of_ratios_counts_small_tokens_as_much():
    x, found = torch.tensor([[100.0, 0], [1, 0]]), torch.tensor([[100.0, 0], [0, 0]])
    ratio, openai = NMSERatio(), NMSEOpenAI()
    for metric in (ratio, openai):
        metric.update(found, x)
    assert float(openai.compute()) == 0.5
    assert float(ratio.compute()) == pytest.approx(1 / 10001)


def of_this_rank(split):
    rows = slice(split) if rank() == 0 else slice(split, 3)
    metrics = NMSERatio(), NMSEOpenAI()
    for metric in metrics:
        metric.update(reconstruction("topk")[rows], X[rows])
    return [float(metric.compute()) for metric in metrics]


@pytest.mark.parametrize("split", [1, 3])
def test_two_ranks_find_what_one_finds(split, two_ranks):
    for ratio, openai in two_ranks(of_this_rank, split):
        assert openai == pytest.approx(0.699524, abs=1e-6)
        assert ratio == pytest.approx(0.667952, abs=1e-6)


@pytest.mark.parametrize("kind", [NMSERatio, NMSEOpenAI])
def test_other_shapes_are_refused(kind):
    with pytest.raises(ValueError, match=r"takes two tensors \(B, d\), got \(3, 2\) and \(3, 3\)"):
        kind().update(torch.zeros(3, 2), torch.zeros(3, 3))

import pytest
import torch

from framework.distributed.collectives import rank
from framework.sparse_coding.feature_density import FeatureDensity
from framework.sparse_coding.zipf import zipf_density

TOKENS = 1_000_000


def update(metric, counts, tokens=TOKENS):
    metric.update(counts, torch.zeros(tokens, dtype=torch.int64))


def lawful(features=300):
    density = zipf_density(features, k=8.0, alpha=1.1, beta=5.0)
    return (density * TOKENS).round().long()


def test_a_law_is_found_in_any_order_of_the_features():
    counts = lawful()[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    metric = FeatureDensity(300)
    update(metric, counts[:, None].expand(300, 2).clone()[:, 0] // 2, TOKENS // 2)
    update(metric, counts - counts // 2, TOKENS // 2)
    values = metric.compute()
    torch.testing.assert_close(values["density"], counts / TOKENS)
    assert float(values["zipf_alpha"]) == pytest.approx(1.1, abs=1e-3)
    assert float(values["zipf_beta"]) == 5
    assert float(values["zipf_r2"]) == pytest.approx(1, abs=1e-4)
    assert float(values["dead_share"]) == float(values["underused_share"]) == 0


def test_the_dead_are_underused_and_others_may_be():
    counts = lawful()
    counts[-30:] = 0
    counts[-60:-30] //= 3
    metric = FeatureDensity(300)
    update(metric, counts)
    values = metric.compute()
    assert float(values["dead_share"]) == pytest.approx(0.1)
    assert float(values["underused_share"]) == pytest.approx(0.2, abs=0.01)
    gentle = FeatureDensity(300, phi=0.01)
    update(gentle, counts)
    assert float(gentle.compute()["underused_share"]) == pytest.approx(0.1)


def test_a_handful_of_features_has_no_law():
    metric = FeatureDensity(20)
    update(metric, torch.arange(20) * (torch.arange(20) < 10))  # nine are active
    values = metric.compute()
    # left out rather than NaN, which would differ from itself where runs are compared
    assert set(values) == {"density", "dead_share"}
    assert float(values["dead_share"]) == pytest.approx(0.55)


def test_without_tokens_nothing_is_known():
    metric = FeatureDensity(3)
    update(metric, torch.zeros(3, dtype=torch.int64), tokens=0)
    values = metric.compute()
    assert all(value.isnan().all() for value in values.values())


def of_this_rank(split):
    active = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 0, 1], [0, 0, 1]])
    own = active[:split] if rank() == 0 else active[split:]
    metric = FeatureDensity(3)
    metric.update(own.sum(0), own.sum(1))
    return metric.compute()


@pytest.mark.parametrize("split", [1, 4])
def test_ranks_add_up(split, two_ranks):
    for values in two_ranks(of_this_rank, split):
        assert values["density"].tolist() == [0.75, 0, 0.75]
        assert float(values["dead_share"]) == pytest.approx(1 / 3)


def test_bad_arguments():
    for features, phi in ((0, 0.5), (3, 0.0), (3, 1.5)):
        with pytest.raises(ValueError, match=r"num_features must be|phi must lie in"):
            FeatureDensity(features, phi)
    with pytest.raises(ValueError, match=r"counts \(3,\) of features and \(B,\) of tokens, got"):
        FeatureDensity(3).update(torch.ones(4).long(), torch.ones(2).long())

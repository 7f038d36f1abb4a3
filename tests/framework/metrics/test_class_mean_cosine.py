"""Cosines between class means: by hand, without rows of a class, and on two ranks."""

import pytest
import torch
import torch.distributed as dist

from framework.metrics.class_mean_cosine import ClassMeanCosine

LABEL = torch.tensor([0, 2, 2, 0, 1, -100, 1, 2])


def features():
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(3)) + 1


def by_hand():
    means = torch.stack([features()[k == LABEL].mean(0) for k in range(3)])
    cosines = torch.nn.functional.cosine_similarity(means[:, None], means[None], dim=2)
    return float(cosines[0, 1] + cosines[0, 2] + cosines[1, 2]) / 3


def test_is_the_mean_over_pairs_of_classes_that_have_rows():
    metric = ClassMeanCosine(num_classes=5, num_features=5)  # classes 3 and 4 have none
    for rows in (slice(3), slice(3, 3), slice(3, 8)):
        metric.update(features()[rows], LABEL[rows])
    assert float(metric.compute()) == pytest.approx(by_hand(), abs=1e-6)
    assert metric.cosines()[3].isnan().all()
    torch.testing.assert_close(metric.cosines().diag()[:3], torch.ones(3))


def test_limits():
    metric = ClassMeanCosine(3, 3)
    metric.update(2 * torch.eye(3), torch.arange(3))
    assert float(metric.compute()) == 0
    metric.reset()
    metric.update(torch.tensor([[1.0, 2, 3], [2, 4, 6], [0, 0, 0]]), torch.arange(3))
    assert float(metric.compute()) == pytest.approx(1)  # a mean of 0 has no direction
    metric.reset()
    metric.update(torch.ones(2, 3), torch.tensor([1, 1]))
    assert metric.compute().isnan()


def share_of_rows(split):
    rows = slice(split) if dist.get_rank() == 0 else slice(split, 8)
    metric = ClassMeanCosine(3, 5)
    metric.update(features()[rows], LABEL[rows])
    return metric.compute()


@pytest.mark.parametrize("split", [2, 8])
def test_ranks_may_share_a_class(split, two_ranks):
    for value in two_ranks(share_of_rows, split):
        assert float(value) == pytest.approx(by_hand(), abs=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        ClassMeanCosine(0, 3)
    with pytest.raises(ValueError, match=r"features \(B, 3\) and a label per row, got \(2, 4\)"):
        ClassMeanCosine(2, 3).update(torch.zeros(2, 4), torch.zeros(2))

"""The most certain images of every cluster, whoever saw them."""

import pytest
import torch
import torch.distributed as dist

from framework.clustering import cluster_samples
from framework.clustering.cluster_samples import ClusterSamples

SHAPE = (3, 2, 2)
CLUSTERS, PER_CLUSTER = 4, 3


def example() -> dict[str, torch.Tensor]:
    """40 samples; image i is full of i, cluster 3 has two, and probabilities tie."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(40, generator=generator)
    cluster = torch.randint(3, (40,), generator=generator)
    cluster[[4, 31]] = 3
    probability = torch.randint(5, (40,), generator=generator) / 4
    # the lowest index is among those that are kept
    probability[index == 0] = 1.0
    image = index.float()[:, None, None, None].expand(-1, *SHAPE)
    return {"image": image, "cluster": cluster, "probability": probability, "index": index}


def make() -> ClusterSamples:
    return ClusterSamples(CLUSTERS, SHAPE, PER_CLUSTER)


def by_hand() -> list[list[int]]:
    """Return the indices that should be kept."""
    data = {name: values.tolist() for name, values in example().items() if name != "image"}
    rows = list(zip(data["cluster"], data["probability"], data["index"], strict=True))
    best = sorted(rows, key=lambda row: (-row[1], row[2]))
    return [[i for c, _, i in best if c == k][:PER_CLUSTER] for k in range(CLUSTERS)]


def indices(kept: cluster_samples.KeptSamples) -> list[list[int]]:
    assert kept.images.shape == (CLUSTERS, PER_CLUSTER, *SHAPE)
    assert kept.images.dtype == torch.float32
    assert not kept.images[~kept.filled].any()
    # images are whole
    assert torch.equal(kept.images, kept.images[..., :1, :1, :1].expand(kept.images.shape))
    numbers = kept.images[..., 0, 0, 0]
    return [numbers[k][kept.filled[k]].long().tolist() for k in range(CLUSTERS)]


@pytest.mark.parametrize("batch", [40, 7, 1])
def test_keeps_the_most_certain_and_of_equals_the_first(batch: int) -> None:
    assert [len(rows) for rows in by_hand()] == [3, 3, 3, 2]
    assert any(0 in rows for rows in by_hand())
    metric = make()
    metric.update(**{name: values[:0] for name, values in example().items()})
    for rows in torch.arange(40).split(batch):
        metric.update(**{name: values[rows] for name, values in example().items()})
    assert indices(metric.compute()) == by_hand()


def test_without_rows_nothing_is_filled() -> None:
    metric = make()
    metric.update(**{name: values[:0] for name, values in example().items()})
    assert not metric.compute().filled.any()
    metric.update(**example())
    metric.reset()
    assert not metric.image.any()
    assert metric.index.eq(-1).all()


def test_a_probability_of_zero_counts() -> None:
    metric = make()
    data = {name: values[:1] for name, values in example().items()}
    metric.update(**data | {"probability": torch.zeros(1)})
    assert metric.compute().filled.sum() == 1


def test_other_precisions_are_taken() -> None:
    metric = make()
    data = example()
    metric.update(**data | {name: data[name].double() for name in ("image", "probability")})
    assert indices(metric.compute()) == by_hand()


def of_this_rank(split: int) -> cluster_samples.KeptSamples:
    rows = slice(split) if dist.get_rank() == 0 else slice(split, None)
    metric = make()
    for part in (slice(5), slice(5, None)):
        metric.update(**{name: values[rows][part] for name, values in example().items()})
    return metric.compute()


def twice_on_this_rank() -> list[list[int]]:
    data = example()
    metric = make()
    for rows in (slice(dist.get_rank(), 20, 2), slice(20 + dist.get_rank(), None, 2)):
        metric.update(**{name: values[rows] for name, values in data.items()})
        kept = metric.compute()
    return indices(kept)


@pytest.mark.parametrize("split", [0, 13])
def test_ranks_choose_together(split: int, two_ranks) -> None:
    for kept in two_ranks(of_this_rank, split):
        assert indices(kept) == by_hand()


def test_goes_on_after_a_result(two_ranks) -> None:
    for found in two_ranks(twice_on_this_rank):
        assert found == by_hand()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_clusters must be at least 1, got 0"):
        ClusterSamples(0, SHAPE)
    with pytest.raises(ValueError, match="per_cluster must be at least 1, got 0"):
        ClusterSamples(2, SHAPE, per_cluster=0)

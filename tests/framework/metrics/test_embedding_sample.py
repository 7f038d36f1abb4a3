"""A sample of codes that depends on indices alone."""

import pytest
import torch
import torch.distributed as dist

from framework.metrics import embedding_sample as code_sample
from framework.metrics.embedding_sample import EmbeddingSample

ROWS, LIMIT = 60, 9


def example(seed: int = 0) -> dict[str, torch.Tensor]:
    """The code, cluster and label of sample i are made of i."""
    index = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
    code = torch.stack([index, -index], dim=1).float()
    return {"code": code, "cluster": index % 4, "index": index, "label": index // 6}


def collect(parts: list[torch.Tensor], seed: int = 0) -> code_sample.EmbeddingSnapshot:
    metric = EmbeddingSample(dim=2, limit=LIMIT)
    for rows in parts:
        metric.update(**{name: values[rows] for name, values in example(seed).items()})
    return metric.compute()


def expected() -> list[int]:
    """Return the samples in the order of their multiples of the golden ratio, modulo 1."""
    golden = (5**0.5 - 1) / 2
    return sorted(range(ROWS), key=lambda i: i * golden % 1)[:LIMIT]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("batch", [60, 11, 1])
def test_batches_and_order_do_not_matter(batch: int, seed: int) -> None:
    kept = collect([torch.arange(0), *torch.arange(ROWS).split(batch)], seed)
    index = torch.tensor(expected())
    assert kept.code.tolist() == torch.stack([index, -index], dim=1).tolist()
    assert kept.cluster.tolist() == (index % 4).tolist()
    assert kept.label.tolist() == (index // 6).tolist()


def test_few_rows_are_all_kept() -> None:
    kept = collect([torch.arange(5)])
    assert sorted(kept.code[:, 0].tolist()) == example()["index"][:5].sort().values.tolist()
    assert collect([torch.arange(0)]).code.shape == (0, 2)


def test_without_labels_they_are_minus_one() -> None:
    metric = EmbeddingSample(dim=2, limit=4)
    data = example()
    del data["label"]
    metric.update(**data)
    assert metric.compute().label.tolist() == [-1] * 4
    assert -1 not in metric.compute().cluster


@pytest.mark.parametrize("rows", [1440, 70_000])
@pytest.mark.parametrize("classes", [10, 20])
def test_every_class_of_sorted_data_has_its_share(rows: int, classes: int) -> None:
    label = torch.arange(rows) * classes // rows
    metric = EmbeddingSample(dim=1, limit=1000)
    metric.update(torch.zeros(rows, 1), label, torch.arange(rows), label)
    counts = metric.compute().label.bincount(minlength=classes)
    assert (counts - 1000 / classes).abs().max() <= 1


def of_this_rank(split: int) -> code_sample.EmbeddingSnapshot:
    rows = torch.arange(ROWS)
    return collect(
        [*(rows[:split] if dist.get_rank() == 0 else rows[split:]).split(10)] or [rows[:0]]
    )


@pytest.mark.parametrize("split", [0, 23])
def test_ranks_choose_together(split: int, two_ranks) -> None:
    alone = collect([torch.arange(ROWS)])
    for kept in two_ranks(of_this_rank, split):
        assert all(torch.equal(a, b) for a, b in zip(kept, alone, strict=True))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        EmbeddingSample(dim=0)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        EmbeddingSample(dim=2, limit=0)

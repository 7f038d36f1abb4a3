"""What an evaluation says of embeddings, whatever the batches and ranks."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from framework.embedding.metrics.embedding_evaluation import EmbeddingEvaluation
from framework.embedding.metrics.pair_verification import PairVerification
from framework.embedding.metrics.retrieval import retrieval_scores
from framework.embedding.metrics.score_blocks import summarize_all_pairs
from framework.embedding.metrics.verification import fold_accuracy
from framework.embedding.pairs import Pairs
from framework.ops.cosines import squared_distances, unit

COUNT = 40


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Return embeddings of 40 images and their labels, of which one is not known."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(COUNT) // 4
    embedding = torch.randn(10, 6, generator=generator)[label]
    embedding = embedding + torch.randn(COUNT, 6, generator=generator)
    label[7] = -1
    return embedding, label


def pairs() -> Pairs:
    first, second = torch.triu_indices(COUNT, COUNT, 1)
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(1))[:200]
    first, second = first[order], second[order]
    return Pairs(first, second, first // 4 == second // 4, 5)


def evaluation(**options: Any) -> EmbeddingEvaluation:
    return EmbeddingEvaluation(6, pairs={"some": pairs()}, far=(0.1, 0.02, 1e-6), **options)


def whole() -> dict[str, Any]:
    metric = evaluation()
    metric.update(*images(), torch.arange(COUNT))
    return metric.compute()


def scalars(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, torch.Tensor)}


def test_values_are_those_of_the_functions() -> None:
    embedding, label = images()
    values, some, known = whole(), pairs(), label >= 0
    distances = squared_distances(unit(embedding), some.first, some.second)
    folds = fold_accuracy(distances, some.same, 5)
    assert (values["some/acc"], values["some/threshold"]) == (folds.mean, folds.threshold)
    retrieved = retrieval_scores(embedding[known], label[known])
    assert values["recall@1"] == retrieved.recall[0]
    assert values["map@r"] == retrieved.map_at_r
    summary = summarize_all_pairs(embedding[known], label[known], (0.1,))
    assert values["tar@far=1e-1"] == summary.at_far.tar[0]
    assert values["xnorm"] == embedding.norm(dim=1).mean()
    # a rate that cannot be measured has no value
    assert {name for name in values if "far" in name} == {
        "some/tar@far=1e-1", "some/tar@far=2e-2", "tar@far=1e-1", "tar@far=2e-2"
    }  # fmt: skip
    assert values["curves"].histogram.sum() == 39 * 38 // 2
    assert values["some/curves"].histogram.sum() == 200


def test_neighbors_are_positions_in_the_set() -> None:
    embedding, label = images()
    found = whole()["neighbors"]
    assert found.query.tolist() == [0, 4, 10, 15, 20, 25, 30, 35]
    cosines = unit(embedding) @ unit(embedding).T
    cosines.fill_diagonal_(-2)[:, 7] = -2
    assert torch.equal(found.found, cosines[found.query].topk(6).indices)
    assert torch.equal(found.same, label[found.found] == label[found.query, None])


def test_batches_order_and_repeated_images_do_not_matter() -> None:
    embedding, label = images()
    metric = evaluation()
    for part in torch.randperm(COUNT, generator=torch.Generator().manual_seed(2)).split(7):
        rows = torch.cat([part, part[:2]])
        metric.update(embedding[rows], label[rows], rows)
        metric.update(embedding[:0], label[:0], rows[:0])
    assert scalars(metric.compute()) == scalars(whole())


def of_this_rank(split: int) -> dict[str, float]:
    rows = torch.arange(COUNT)
    # both have the middle image
    rows = rows[:split] if dist.get_rank() == 0 else rows[max(0, split - 1) :]
    metric = evaluation()
    embedding, label = images()
    if len(rows):
        metric.update(embedding[rows], label[rows], rows)
    return scalars(metric.compute())


@pytest.mark.parametrize("split", [0, 17])
def test_two_ranks_are_one(split: int, two_ranks: Any) -> None:
    for found in two_ranks(of_this_rank, split):
        assert found == scalars(whole())


def test_what_is_not_there_has_no_value() -> None:
    embedding, label = images()
    index = torch.arange(COUNT)
    metric = evaluation()
    metric.update(embedding[:0], label[:0], index[:0])
    assert metric.compute() == {}
    # an evaluation that was limited to some batches, where no pair was seen whole
    metric.update(embedding[:1], label[:1], index[:1])
    assert list(metric.compute()) == ["xnorm"]
    metric.reset()
    metric.update(embedding[:12], torch.full((12,), -1), index[:12])
    values = metric.compute()
    assert {name.partition("/")[0] for name in values} == {"some", "xnorm"}
    metric.reset()
    metric.update(embedding, torch.arange(COUNT) // 39, index)
    assert metric.compute()["excluded_queries"] == 1


def test_queries_are_compared_with_the_gallery_alone() -> None:
    embedding, label = images()
    index, is_query, known = torch.arange(COUNT), torch.arange(COUNT) % 3 == 0, label >= 0
    metric = evaluation()
    for rows in index.split(9):
        metric.update(embedding[rows], label[rows], rows, is_query[rows])
    values = metric.compute()
    query, gallery = is_query & known, ~is_query & known
    expected = retrieval_scores(
        embedding[query], label[query], (1,), embedding[gallery], label[gallery]
    )
    assert values["recall@1"] == expected.recall[0] != whole()["recall@1"]
    assert values["r_precision"] == expected.r_precision
    found = values["neighbors"]
    assert is_query[found.query].all()
    assert not is_query[found.found].any()
    cosines = unit(embedding)[found.query] @ unit(embedding).T
    assert torch.equal(found.found, cosines.masked_fill(~gallery, -2).topk(6).indices)
    assert torch.equal(found.same, label[found.found] == label[found.query, None])
    assert values["curves"].histogram.sum() == 39 * 38 // 2


def test_half_precision_is_compared_in_single() -> None:
    embedding, label = images()
    half = evaluation()
    half.update(embedding.bfloat16(), label, torch.arange(COUNT))
    single = evaluation()
    single.update(embedding.bfloat16().float(), label, torch.arange(COUNT))
    assert scalars(half.compute()) == scalars(single.compute())


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"embedding must be \(B, 6\), got \(2, 5\)"):
        evaluation().update(torch.zeros(2, 5), torch.zeros(2), torch.arange(2))


def test_pairs_by_similarity_and_by_distance() -> None:
    embedding, _ = images()
    some = pairs()
    distances = squared_distances(unit(embedding), some.first, some.second)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    expected = scalars(whole())
    for score, values in (("distance", distances), ("similarity", 1 - distances / 2)):
        metric = PairVerification(score, num_folds=5, far=(0.1, 0.02, 1e-6))
        for part in order.split(60):
            rows = torch.cat([part, part[:3]])
            metric.update(values[rows], some.same[rows], rows)
        found = scalars(metric.compute())
        assert found == pytest.approx({name: expected[f"some/{name}"] for name in found})
        assert len(found) == 6
    metric.reset()
    metric.update(values[:0], some.same[:0], order[:0])
    assert metric.compute() == {}
    with pytest.raises(ValueError, match="score must be one of similarity, distance, got 'cosine'"):
        PairVerification("cosine")

"""Recall@K, R-Precision and MAP@R."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.embedding.metrics.retrieval import (
    map_at_r,
    r_precision,
    recall_at_k,
    retrieval_scores,
)
from framework.embedding.metrics.retrieval_recall import RetrievalRecallAtK
from framework.embedding.metrics.score_blocks import summarize_all_pairs

POINTS = torch.tensor([[1, 0], [0.9, 0.1], [0.5, 0.5], [0, 1], [0.1, 0.9], [0.6, 0.4]])
LABELS = torch.tensor([0, 0, 1, 1, 1, 0])


def test_worked_example() -> None:
    found = retrieval_scores(POINTS, LABELS, (1, 2, 4))
    assert found.recall.tolist() == pytest.approx([2 / 3, 5 / 6, 1], abs=1e-12)
    assert float(found.r_precision) == pytest.approx(0.75, abs=1e-12)
    assert float(found.map_at_r) == pytest.approx(0.708333, abs=1e-6)
    assert (found.queries, found.excluded) == (6, 0)
    assert recall_at_k(POINTS, LABELS, 2) == found.recall[1]
    assert r_precision(POINTS, LABELS) == found.r_precision
    assert map_at_r(POINTS, LABELS) == found.map_at_r


def test_a_copy_of_an_image_counts_and_the_image_itself_does_not() -> None:
    points = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    # the copies are of other classes: to drop the first neighbor would leave the image itself
    assert recall_at_k(points, torch.tensor([0, 1, 0, 1])) == 0
    assert recall_at_k(points, torch.tensor([0, 0, 1, 1])) == 1


def test_numbers_that_are_not_finite_find_nothing() -> None:
    points = torch.tensor([[1.0, 0], [math.nan, 1], [0.9, 0.1], [math.inf, 0], [-1, 0.1]])
    found = retrieval_scores(points, torch.tensor([0, 1, 0, 1, 1]))
    # a cosine of 0 with all: of those the first is nearest
    assert float(found.recall) == pytest.approx(3 / 5)
    whole = summarize_all_pairs(points, torch.tensor([0, 1, 0, 1, 1]), [0])
    assert whole.at_far.tar.tolist() == [0.25]


def test_queries_without_a_match_are_counted_out() -> None:
    found = retrieval_scores(POINTS, torch.tensor([0, 0, 1, 2, 3, 0]), (1,))
    assert (found.queries, found.excluded) == (3, 3)
    assert float(found.recall) == pytest.approx(2 / 3)
    none = retrieval_scores(POINTS, torch.arange(6), (1, 2))
    assert (none.queries, none.excluded) == (0, 6)
    assert none.recall.isnan().all()
    assert math.isnan(none.map_at_r)


def by_hand(
    query: torch.Tensor, label: list[int], gallery: torch.Tensor, found: list[int], ks: list[int]
) -> list[float]:
    """Return recall at each K, R-Precision and MAP@R of a loop over all queries."""
    rows = []
    for q, one in enumerate(label):
        others = [g for g in range(len(found)) if gallery is not query or g != q]
        others.sort(key=lambda g: -float(query[q] @ gallery[g]))
        hits = [found[g] == one for g in others]
        size = sum(hits)
        if size:
            precision = [sum(hits[: i + 1]) / (i + 1) for i in range(size)]
            average = sum(p for p, hit in zip(precision, hits, strict=False) if hit) / size
            rows.append([*(any(hits[:k]) for k in ks), sum(hits[:size]) / size, average])
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)] if rows else []


# of axes and their negatives, whose cosines have no rounding and many ties
axes = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=14)


def points_of(rows: list[tuple[int, int]]) -> tuple[torch.Tensor, list[int]]:
    directions = torch.cat([torch.eye(3), -torch.eye(3)])
    return directions[[axis for axis, _ in rows]], [label for _, label in rows]


@given(axes, st.integers(1, 60))
def test_scores_are_those_of_a_loop(rows: list[tuple[int, int]], block: int) -> None:
    points, label = points_of(rows)
    ks = [1, 2, 5]
    expected = by_hand(points, label, points, label, ks)
    found = retrieval_scores(points, torch.tensor(label), ks, block=block)
    if expected:
        values = [*found.recall.tolist(), float(found.r_precision), float(found.map_at_r)]
        assert values == pytest.approx(expected, abs=1e-12)
    else:
        assert found.queries == 0


@given(axes, axes, st.integers(1, 60))
def test_a_gallery(rows: list[tuple[int, int]], others: list[tuple[int, int]], block: int) -> None:
    query, label = points_of(rows)
    gallery, found_label = points_of(others)
    ks = [1, 3]
    expected = by_hand(query, label, gallery, found_label, ks)
    found = retrieval_scores(
        query, torch.tensor(label), ks, gallery, torch.tensor(found_label), block
    )
    if expected:
        values = [*found.recall.tolist(), float(found.r_precision), float(found.map_at_r)]
        assert values == pytest.approx(expected, abs=1e-12)


def test_values_are_those_of_pytorch_metric_learning() -> None:
    calculators = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    inference = pytest.importorskip("pytorch_metric_learning.utils.inference")
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 12, (90,), generator=generator)
    points = torch.randn(12, 8, generator=generator)[label]
    points = points + torch.randn(90, 8, generator=generator)
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    search = inference.CustomKNN(distances.CosineSimilarity())
    calculator = calculators.AccuracyCalculator(include=names, knn_func=search)
    expected = calculator.get_accuracy(points, label)
    found = retrieval_scores(points, label)
    values = [float(found.recall), float(found.r_precision), float(found.map_at_r)]
    assert values == pytest.approx([expected[name] for name in names], abs=1e-6)


def test_metric_counts_an_image_once_and_takes_a_gallery() -> None:
    metric = RetrievalRecallAtK(2, ks=(1, 2, 4))
    index = torch.tensor([12, 3, 5, 8, 40, 1])
    for rows in (slice(4), slice(4, 4), slice(2, 6)):
        metric.update(POINTS[rows], LABELS[rows], index[rows])
    values = metric.compute()
    expected = {"recall@1": 2 / 3, "recall@2": 5 / 6, "recall@4": 1, "r_precision": 0.75}
    assert {name: float(values[name]) for name in expected} == pytest.approx(expected)
    metric.reset()
    metric.update(POINTS[:0], LABELS[:0], index[:0])
    assert metric.compute() == {}
    metric.update(
        POINTS, LABELS, torch.arange(6), is_gallery=torch.tensor([1, 0, 0, 1, 0, 0]).bool()
    )
    found = retrieval_scores(
        POINTS[[1, 2, 4, 5]], LABELS[[1, 2, 4, 5]], (1,), POINTS[[0, 3]], LABELS[[0, 3]]
    )
    assert metric.compute()["recall@1"] == found.recall[0]


def test_a_gallery_needs_classes() -> None:
    with pytest.raises(ValueError, match="A gallery needs the class of each of its items"):
        retrieval_scores(POINTS, LABELS, gallery=POINTS)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        recall_at_k(POINTS, LABELS, 0)

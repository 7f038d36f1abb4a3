"""Nearest-neighbor graphs: by hand, against all distances, and rows that are equal."""

from __future__ import annotations

import pytest
import torch

from framework.graphs import neighbor_graph


def test_neighbors_are_those_of_all_distances() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    for metric, distance in (
        ("euclidean", torch.cdist(x, x)),
        ("cosine", 1 - torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T),
    ):
        nearest = distance.fill_diagonal_(torch.inf).topk(3, largest=False).indices
        joined = torch.zeros(40, 40, dtype=torch.bool).scatter_(1, nearest, True)
        pairs, weight = neighbor_graph(x, 3, metric)  # type: ignore[arg-type]
        assert torch.equal(pairs, (joined | joined.T).nonzero().T), metric
        assert torch.equal(weight, torch.ones(pairs.shape[1]))


def test_copies_of_a_row_are_neighbors_of_it_and_it_is_not_its_own() -> None:
    pairs, _ = neighbor_graph(torch.ones(5, 2), 2)
    assert (pairs[0] != pairs[1]).all()
    assert (pairs[0].bincount(minlength=5) >= 2).all()


@pytest.mark.parametrize(
    ("x", "neighbors", "metric", "message"),
    [
        (torch.zeros(3, 2), 3, "cosine", "more rows than neighbors=3"),
        (torch.zeros(3), 1, "cosine", "more rows than"),
        (torch.full((3, 2), torch.nan), 1, "cosine", "must be finite"),
        (torch.zeros(3, 2), 0, "cosine", "neighbors must be at least 1"),
        (torch.zeros(3, 2), 1, "manhattan", "metric must be one of cosine, euclidean"),
    ],
)
def test_what_has_no_neighbors_is_refused(
    x: torch.Tensor, neighbors: int, metric: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        neighbor_graph(x, neighbors, metric)  # type: ignore[arg-type]

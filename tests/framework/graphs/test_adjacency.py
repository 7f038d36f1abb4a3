"""Adjacency: the numbers of arXiv:2209.14067's small example, and what is no graph."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.graphs import normalized_adjacency, sparse_matrix, symmetrized

PATH = torch.tensor([[0, 1, 2], [1, 2, 3]])


def test_path_graph_has_the_rows_of_the_paper() -> None:
    third = 1 / 3
    expected = torch.tensor(
        [[0.5, 0.5, 0, 0], [third, third, third, 0], [0, third, third, third], [0, 0, 0.5, 0.5]]
    )
    dense = sparse_matrix(*normalized_adjacency(PATH, 4), 4).to_dense()
    torch.testing.assert_close(dense, expected, rtol=0, atol=1e-7)


def test_weights_are_the_largest_of_both_directions() -> None:
    edges = torch.tensor([[0, 1, 1, 0, 2], [1, 0, 2, 1, 2]])
    pairs, weight = symmetrized(edges, 4, torch.tensor([2.0, 5.0, 3.0, 1.0, 9.0]))
    assert pairs.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert weight.tolist() == [5.0, 5.0, 3.0, 3.0]
    step, values = normalized_adjacency(edges, 4, torch.tensor([2.0, 5.0, 3.0, 1.0, 9.0]))
    matrix = sparse_matrix(step, values, 4).to_dense()
    assert matrix[3].tolist() == [0, 0, 0, 1], "an isolated node stays where it is"
    torch.testing.assert_close(matrix[1], torch.tensor([5.0, 1.0, 3.0, 0.0]) / 9)


def test_without_self_loops_an_isolated_row_is_empty() -> None:
    step, weight = normalized_adjacency(PATH, 5, self_loops=False)
    assert (step[0] == step[1]).sum() == 0
    assert not (step == 4).any()
    torch.testing.assert_close(weight.sum(), torch.tensor(4.0))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_dense_route_gives_the_same(pairs: list[tuple[int, int]]) -> None:
    edges = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
    dense = torch.zeros(7, 7, dtype=torch.float64)
    dense[edges[0], edges[1]] = 1
    dense = torch.maximum(dense, dense.T).fill_diagonal_(1)
    found = sparse_matrix(*normalized_adjacency(edges, 7), 7)
    assert found.is_coalesced()
    torch.testing.assert_close(
        found.to_dense().double(), dense / dense.sum(1, keepdim=True), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("edges", "weight", "message"),
    [
        (torch.tensor([[0], [4]]), None, "An edge joins 0 and 4, and nodes are 0 to 3."),
        (torch.tensor([[-1], [0]]), None, "An edge joins -1 and 0"),
        (torch.tensor([0, 1]), None, r"must be \(2, E\) int64"),
        (torch.zeros(2, 1), None, r"must be \(2, E\) int64"),
        (PATH, torch.ones(2), r"edge_weight must be \(3,\)"),
        (PATH, torch.tensor([1.0, 0.0, 1.0]), "positive and finite"),
        (PATH, torch.tensor([1.0, torch.nan, 1.0]), "positive and finite"),
    ],
)
def test_what_is_no_graph_is_refused(
    edges: torch.Tensor, weight: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        symmetrized(edges, 4, weight)

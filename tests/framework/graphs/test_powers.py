"""Powers of the adjacency: worked numbers, the dense route, and the bound of memory."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.graphs import (
    GraphTooDenseError,
    adjacency_powers,
    neighbor_graph,
    normalized_adjacency,
    powers,
    sparse_matrix,
)

PATH = torch.tensor([[0, 1, 2], [1, 2, 3]])


def test_influence_of_order_two_has_the_numbers_of_the_paper() -> None:
    dense = sparse_matrix(*adjacency_powers(PATH, 4, order=2), 4).to_dense()
    expected = torch.tensor(
        [[0.916667, 0.916667, 0.166667, 0.0], [0.611111, 0.722222, 0.555556, 0.111111]]
    )
    torch.testing.assert_close(dense[:2], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(dense.sum(1), torch.full((4,), 2.0))


@pytest.mark.parametrize("cumulative", [True, False])
def test_order_one_is_the_adjacency(cumulative: bool) -> None:
    pairs, weight = adjacency_powers(PATH, 4, order=1, cumulative=cumulative)
    edges, values = normalized_adjacency(PATH, 4)
    assert torch.equal(pairs, edges)
    torch.testing.assert_close(weight, values)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=16),
    st.integers(1, 4),
    st.booleans(),
)
def test_dense_route_gives_the_same(
    pairs: list[tuple[int, int]], order: int, cumulative: bool
) -> None:
    edges = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
    weight = torch.ones(len(pairs), dtype=torch.float64)
    step = sparse_matrix(*normalized_adjacency(edges, 8, weight), 8).to_dense()
    steps = [torch.linalg.matrix_power(step, s) for s in range(1, order + 1)]
    expected = sum(steps) if cumulative else steps[-1]
    found = sparse_matrix(
        *adjacency_powers(edges, 8, weight, order=order, cumulative=cumulative), 8
    )
    assert (found.values() > 0).all()
    torch.testing.assert_close(found.to_dense(), expected, rtol=0, atol=1e-12)


def test_too_dense_a_power_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(powers, "CHUNK_ENTRIES", 50)
    star = torch.stack([torch.zeros(99, dtype=torch.int64), torch.arange(1, 100)])
    exact = 100 * 100  # two steps lead from every node to every other
    adjacency_powers(star, 100, order=2, max_bytes=exact * powers.ENTRY_BYTES)
    with pytest.raises(GraphTooDenseError, match=r"^Order 2 joins .* take a smaller order"):
        adjacency_powers(star, 100, order=2, max_bytes=exact * powers.ENTRY_BYTES - 1)
    with pytest.raises(GraphTooDenseError, match=r"^Order 1 joins 298 or more pairs"):
        adjacency_powers(star, 100, max_bytes=100)


def test_bound_is_exact_where_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(powers, "CHUNK_ENTRIES", 30)
    ring = torch.tensor([*pairwise(range(40)), (39, 0)]).T
    entries = 40 * 7  # three to either side, and the node itself
    pairs, _ = adjacency_powers(ring, 40, order=3, max_bytes=entries * powers.ENTRY_BYTES)
    assert pairs.shape[1] == entries
    with pytest.raises(GraphTooDenseError):
        adjacency_powers(ring, 40, order=3, max_bytes=entries * powers.ENTRY_BYTES - 1)


def test_entries_take_no_more_than_is_said() -> None:
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    edges, _ = neighbor_graph(x, 5)
    adjacency_powers(edges, 400)  # what is imported at the first call is not counted
    tracemalloc.start()
    pairs, _ = adjacency_powers(edges, 400, order=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 24 * pairs.shape[1] < peak < powers.ENTRY_BYTES * pairs.shape[1]


def test_default_limit_is_that_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.0000001")
    with pytest.raises(GraphTooDenseError):
        adjacency_powers(PATH, 4)


def test_order_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        adjacency_powers(PATH, 4, order=0)

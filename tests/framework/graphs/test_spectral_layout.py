"""Spectral layout: the modes of a regularized walk, and graphs that have few."""

from __future__ import annotations

import pytest
import torch

from framework.graphs import spectral_layout, symmetrized


def two_cliques(size: int) -> torch.Tensor:
    """Return two complete graphs that one edge joins."""
    one = torch.combinations(torch.arange(size)).T
    return torch.cat([one, one + size, torch.tensor([[0], [size]])], 1)


@pytest.mark.parametrize("size", [5, 260])
def test_first_axis_parts_two_cliques(size: int) -> None:
    places = spectral_layout(two_cliques(size), 2 * size)
    signs = places[:, 0].sign()
    assert (signs[:size] == signs[0]).all()
    assert (signs[size:] == -signs[0]).all()


def test_places_are_modes_of_the_regularized_walk() -> None:
    edges, _ = symmetrized(two_cliques(4), 9)  # the last node has no edge
    near = torch.zeros(9, 9, dtype=torch.float64)
    near[edges[0], edges[1]] = 1
    near += near.sum() / 9 / 9
    step = near / near.sum(1, keepdim=True)
    places = spectral_layout(edges, 9)
    modes = torch.linalg.eigvals(step).real.sort(descending=True).values
    for axis in range(2):
        torch.testing.assert_close(step @ places[:, axis], modes[axis + 1] * places[:, axis])


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_few_nodes_without_edges_have_places(nodes: int) -> None:
    places = spectral_layout(torch.zeros(2, 0, dtype=torch.int64), nodes)
    assert places.shape == (nodes, 2)
    assert places.isfinite().all()


def test_no_nodes_are_refused() -> None:
    with pytest.raises(ValueError, match="without nodes"):
        spectral_layout(torch.zeros(2, 0, dtype=torch.int64), 0)

"""Modularity and conductance: networkx, and the limits."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch import Tensor

from framework.graphs import conductance, modularity, symmetrized


def random_graph(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(30, (2, 80), generator=generator)
    weight = torch.rand(80, generator=generator, dtype=torch.float64) + 0.1
    return *symmetrized(pairs, 30, weight), torch.randint(4, (30,), generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_both_are_those_of_networkx(seed: int) -> None:
    edges, weight, cluster = random_graph(seed)
    graph = nx.Graph()
    graph.add_nodes_from(range(30))
    graph.add_weighted_edges_from(
        (a, b, w) for (a, b), w in zip(edges.T.tolist(), weight.tolist(), strict=True)
    )
    parts = [set((cluster == k).nonzero().flatten().tolist()) for k in range(4)]
    assert modularity(edges, weight, cluster, 4).item() == pytest.approx(
        nx.community.modularity(graph, parts), abs=1e-12
    )
    cuts = [nx.conductance(graph, part, weight="weight") for part in parts]
    assert conductance(edges, weight, cluster, 5).item() == pytest.approx(sum(cuts) / 4, abs=1e-12)


def test_one_cluster_has_no_modularity_and_no_conductance() -> None:
    edges, weight, cluster = random_graph(0)
    assert modularity(edges, weight, 0 * cluster, 4).item() == pytest.approx(0, abs=1e-12)
    assert conductance(edges, weight, 0 * cluster, 4).isnan()


def test_parts_without_an_edge_between_them_are_perfect() -> None:
    edges, weight = symmetrized(torch.tensor([[0, 1, 3], [1, 2, 4]]), 5)
    cluster = torch.tensor([0, 0, 0, 1, 1])
    assert conductance(edges, weight, cluster, 2).item() == 0
    # shares 2/3 and 1/3 of the edges
    assert modularity(edges, weight, cluster, 2).item() == pytest.approx(4 / 9)

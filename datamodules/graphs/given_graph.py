"""A graph as its files give it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class GivenGraph(NamedTuple):
    """Nodes and edges of a graph, before edges are made undirected.

    Args:
        num_nodes: Number of nodes N.
        edge_index: Edges (2, E) int64, in any order and direction.
        edge_weight: Positive weights (E,); None for 1 each.
        x: Features (N, F) float32; None where the files have none.
        label: Classes (N,) int64, from 0 to ``num_classes`` - 1; None where the files have none.
        num_classes: Number of classes.
        class_names: Names of the classes, by label.
        names: Names of the nodes, where they are not their positions.
    """

    num_nodes: int
    edge_index: Tensor
    edge_weight: Tensor | None = None
    x: Tensor | None = None
    label: Tensor | None = None
    num_classes: int | None = None
    class_names: Sequence[str] | None = None
    names: Sequence[str] | None = None

    def kept(self, keep: Tensor, names: Sequence[str]) -> GivenGraph:
        """Return the graph of some of the nodes, and of the edges between them.

        Args:
            keep: Whether a node is kept, (N,) bool.
            names: Names of the nodes that are.
        """
        position = keep.cumsum(0) - 1
        inner = keep[self.edge_index].all(0)
        return self._replace(
            num_nodes=int(keep.sum()),
            edge_index=position[self.edge_index[:, inner]],
            edge_weight=None if self.edge_weight is None else self.edge_weight[inner],
            x=None if self.x is None else self.x[keep],
            label=None if self.label is None else self.label[keep],
            names=names,
        )


def empty_edges() -> Tensor:
    """Return the edges of a graph that has none, (2, 0)."""
    return torch.zeros(2, 0, dtype=torch.int64)

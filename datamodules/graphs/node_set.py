"""The nodes of one graph as a data set."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from framework.data.datasets import ArrayDataset, Batch


class NodeSet(ArrayDataset):
    """Nodes of one graph; a batch of any of them holds the whole graph.

    Which nodes a batch is about is told by ``index``, which the loader adds.

    Args:
        x: Features (N, F).
        edge_index: Both directions of each edge, (2, E) int64.
        edge_weight: Weights (E,).
        label: Classes (N,) int64; None where they are not known.
        names: Names of the nodes, where they are not their positions.
    """

    names_title = "node"

    def __init__(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor,
        label: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(**({"x": x} if label is None else {"x": x, "label": label}))
        self.edges = {"edge_index": edge_index, "edge_weight": edge_weight}
        self.names = names

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the whole graph, whatever the rows."""
        return {**self.fields, **self.edges}

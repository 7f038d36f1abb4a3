"""One graph as a datamodule: its only batch is the whole of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.graphs.files import read_graph
from datamodules.graphs.given_graph import GivenGraph, empty_edges
from datamodules.graphs.node_set import NodeSet
from datamodules.graphs.rows import all_rows
from datamodules.graphs.structure import adjacency_features, degree_features
from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.data.facts import Facts, copy_facts
from framework.data.raw_inputs import as_rows
from framework.data.samplers import GlobalBatchSampler
from framework.graphs.adjacency import symmetrized
from framework.graphs.neighbors import NeighborMetric, neighbor_graph
from framework.objectives.errors import IncompatibleError
from framework.utilities.checks import check_at_least, check_one_of

Structure = Literal["adjacency", "degree"]


class Graphs(DataModule):
    """One undirected graph, read from files or joining the nearest rows of other data.

    Every batch holds the whole graph, on every rank: ``x`` (N, F) float32, ``edge_index`` (2, E)
    int64, both directions of each edge, sorted, without self-loops and duplicates, ``edge_weight``
    (E,) float32, and ``label`` (N,) int64 where the classes are known. ``index`` holds the nodes
    that this rank counts in training and evaluates: all of them on one process, the r-th slice on
    rank r. An epoch is one batch, in training and in evaluation, and nothing is held out.

    Formats: a folder of Planetoid (``ind.<name>.graph`` and so on; pickles that are read as plain
    arrays, so that they run nothing), one of WebKB as Geom-GCN has it (``out1_graph_edges.txt``),
    a list of edges as struc2vec has it, two nodes a line, or a table of edges (``.csv``,
    ``.parquet``), whose nodes and classes have any names. The nodes of Planetoid's test set are
    put where ``test.index`` says, and nodes without features and class, 15 of Citeseer, are left
    out. Directed edges count in both directions; of several between two nodes the one of the
    largest weight.

    A list of edges has no features; then they are made of the edges: ``adjacency`` is the node's
    row of the adjacency with 1 for itself, which tells more and has as many columns as there are
    nodes; ``degree`` is a one at the number of neighbors, which other graphs have as well.

    Args:
        path: Folder of the files, or the folder above their ``raw``, or a list or table of edges.
        data: Datamodule of images or of rows of numbers, in place of ``path``: each row of its
            training, guide, validation and test sets, in this order, is a node.
        neighbors: Number of nearest rows that each row of ``data`` is joined to.
        metric: Distance of rows of ``data``: ``cosine`` or ``euclidean``.
        labels: File of the classes of a list of edges; default ``labels-<name>.txt`` or
            ``.csv`` beside it.
        structure: Features of nodes that have none: ``adjacency`` or ``degree``.
        row_normalize: Whether features of a node are divided by the sum of their absolute values.
        num_workers: Loading processes per rank; by default none, as the graph lies in memory.

    Raises:
        ValueError: Neither ``path`` nor ``data``, or both, or an argument out of its range.
        FileNotFoundError: A file that is missing (at ``setup``).
        IncompatibleError: Nodes with another number of features than in training (at ``setup``).

    Example:
        >>> from datamodules import Digits
        >>> data = Graphs(data=Digits(), neighbors=5)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> tuple(batch["x"].shape), len(batch["index"]), data.num_classes
        ((1797, 64), 1797, 10)
    """

    input_shape: tuple[int, ...] | None = None

    def __init__(
        self,
        path: str | None = None,
        data: DataModule | None = None,
        neighbors: int = 5,
        metric: NeighborMetric = "cosine",
        labels: str | None = None,
        structure: Structure = "adjacency",
        row_normalize: bool = False,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(batch_size=1, num_workers=num_workers)
        if (path is None) == (data is None):
            raise ValueError(
                "A graph comes from path or from data: give one of them, and null for the other."
            )
        if labels is not None and path is None:
            raise ValueError("labels belongs to a list of edges: give its path.")
        check_at_least(1, neighbors=neighbors)
        check_one_of(("cosine", "euclidean"), metric=metric)
        check_one_of(("adjacency", "degree"), structure=structure)
        self.path = None if path is None else Path(path)
        self.place = self.path
        self.data = data
        self.neighbors = neighbors
        self.metric: NeighborMetric = metric
        self.labels = None if labels is None else Path(labels)
        self.structure = structure
        self.row_normalize = row_normalize
        if data is not None:
            copy_facts(data, self, ("num_classes", "class_names"))

    def prepare_data(self) -> None:
        """Prepare the wrapped data."""
        if self.data is not None:
            self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read or build the graph once, for all stages."""
        if self.train_set is not None:
            return
        graph = self._from_data() if self.path is None else read_graph(self.path, self.labels)
        edges, weight = symmetrized(graph.edge_index, graph.num_nodes, graph.edge_weight)
        x = self._features(graph, edges, weight)
        trained = self.trained.get("input_shape")
        if trained is not None and list(trained) != [x.shape[1]]:
            raise IncompatibleError(
                f"The nodes have {x.shape[1]} features, and the model was trained on {trained[0]}."
            )
        self.input_shape = (x.shape[1],)
        self.num_classes, self.class_names = graph.num_classes, graph.class_names
        nodes = NodeSet(x, edges, weight.float(), graph.label, graph.names)
        self.train_set = self.val_set = self.test_set = self.predict_set = nodes
        self.batch_size = self.eval_batch_size = graph.num_nodes

    def _from_data(self) -> GivenGraph:
        assert self.data is not None
        self.data.use_facts(self._facts_for_data(self.trained))
        x, label = all_rows(self.data)
        edges, _ = neighbor_graph(x, self.neighbors, self.metric)
        known = (
            {}
            if label is None
            else {
                "num_classes": self.data.num_classes,
                "class_names": self.data.class_names,
            }
        )
        return GivenGraph(len(x), edges, x=x, label=label, **known)  # type: ignore[arg-type]

    def _features(self, graph: GivenGraph, edges: Tensor, weight: Tensor) -> Tensor:
        if graph.x is not None:
            x = graph.x
        elif self.structure == "degree":
            width = self.trained.get("input_shape", [None])[0]
            x = degree_features(edges, graph.num_nodes, width)
        else:
            x = adjacency_features(edges, weight, graph.num_nodes)
        return self._normalized(x)

    def _normalized(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, p=1.0, dim=1) if self.row_normalize else x

    def _facts_for_data(self, facts: Facts) -> Facts:
        return {name: fact for name, fact in facts.items() if name not in ("input_shape", "origin")}

    def use_facts(self, facts: Facts) -> None:
        """Prepare the wrapped data as those that a model was trained on."""
        super().use_facts(facts)
        if self.data is not None:
            self.data.use_facts(self._facts_for_data(facts))

    def forget(self) -> None:
        """Forget what ``setup`` read."""
        super().forget()
        if self.data is not None:
            self.data.forget()

    def as_batch(self, inputs: Any) -> Batch:
        """Return features (N, F) of new nodes as a graph without edges."""
        x = as_rows(inputs, None if self.input_shape is None else self.input_shape[0]).float()
        return {
            "x": self._normalized(x),
            "edge_index": empty_edges(),
            "edge_weight": torch.zeros(0),
            "index": torch.arange(len(x)),
        }

    def train_sampler(self) -> GlobalBatchSampler:
        """Return the stream of one batch an epoch, in the order of the nodes."""
        rows = len(self.train_set)  # type: ignore[arg-type]
        return GlobalBatchSampler(rows, rows, shuffle=False, **self._stream)

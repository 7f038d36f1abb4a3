"""Formats of graphs: small files by hand, real ones by their known counts, and damaged ones."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from datamodules.graphs.files import read_graph
from datamodules.graphs.given_graph import GivenGraph
from framework.graphs import symmetrized
from tests.datamodules.graphs.graph_files import write_edge_list, write_planetoid, write_webkb
from tests.helpers.data import shared_data


def undirected(graph: GivenGraph) -> list[list[int]]:
    """Return the edges as pairs, the smaller node first."""
    pairs, _ = symmetrized(graph.edge_index, graph.num_nodes, graph.edge_weight)
    return [[a, b] for a, b in pairs.T.tolist() if a < b]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_planetoid_puts_test_nodes_in_their_places(tmp_path: Path, protocol: int) -> None:
    graph = read_graph(write_planetoid(tmp_path, protocol), None)
    assert graph.x is not None
    assert graph.x.argmax(1).tolist() == [0, 1, 2, 0, 0, 2]
    assert graph.label is not None
    assert graph.label.tolist() == [0, 1, 0, 1, 1, 0]
    assert graph.names == ["0", "1", "2", "3", "4", "6"], "5 has neither words nor a class"
    assert undirected(graph) == [[0, 1], [0, 5], [1, 2], [2, 3], [3, 4]]


def test_webkb_is_read_by_the_numbers_of_its_pages(tmp_path: Path) -> None:
    graph = read_graph(write_webkb(tmp_path), None)
    assert graph.x is not None
    assert graph.x.tolist() == [[1, 0, 0], [0, 1, 0.5], [0, 0, 1]]
    assert graph.label is not None
    assert graph.label.tolist() == [0, 1, 1]
    assert undirected(graph) == [[0, 1], [1, 2]]


def test_edge_list_keeps_the_names_of_its_nodes_and_its_weights(tmp_path: Path) -> None:
    graph = read_graph(write_edge_list(tmp_path), None)
    assert graph.names == ["10", "20", "30", "40"]
    assert graph.class_names == ["3", "5"]
    assert graph.label is not None
    assert graph.label.tolist() == [0, 0, 1, 1]
    assert undirected(graph) == [[0, 1], [1, 3], [2, 3]]
    _, weight = symmetrized(graph.edge_index, 4, graph.edge_weight)
    assert weight.tolist() == [1, 1, 1, 2.5, 1, 2.5]


def test_edge_list_without_labels_has_the_nodes_of_its_edges(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_text("7 3\n3 5\n")
    graph = read_graph(tmp_path / "g.txt", None)
    assert (graph.num_nodes, graph.names, graph.label) == (3, ["3", "5", "7"], None)
    assert undirected(graph) == [[0, 1], [0, 2]]


@pytest.mark.parametrize(
    ("parts", "nodes", "edges", "width", "counts"),
    [
        ("planetoid/Cora", 2708, 5278, 1433, [351, 217, 418, 818, 426, 298, 180]),
        ("webkb/texas", 183, 279, 1703, [33, 1, 18, 101, 30]),
        ("webkb/wisconsin", 251, 450, 1703, [10, 70, 118, 32, 21]),
        ("airports/brazil-airports.edgelist", 131, 1003, None, [32, 32, 32, 35]),
        ("airports/europe-airports.edgelist", 399, 5993, None, [99, 99, 99, 102]),
    ],
)
def test_real_graphs(
    parts: str, nodes: int, edges: int, width: int | None, counts: list[int]
) -> None:
    graph = read_graph(shared_data(*parts.split("/")), None)
    assert graph.num_nodes == nodes
    assert len(undirected(graph)) == edges
    assert (None if graph.x is None else graph.x.shape[1]) == width
    assert graph.label is not None
    assert graph.label.bincount().tolist() == counts


def test_classes_of_cora_have_the_names_of_their_sizes() -> None:
    graph = read_graph(shared_data("planetoid", "Cora", "raw"), None)
    assert graph.class_names is not None
    assert graph.label is not None
    sizes = dict(zip(graph.class_names, graph.label.bincount().tolist(), strict=True))
    assert sizes["Neural_Networks"] == 818
    assert sizes["Rule_Learning"] == 180


class Runs:
    """Pickles to a call of ``os.mkdir``."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def broken(part: str, value: object) -> Callable[[Path], Path]:
    """Return a function that writes the small graph with one part of it replaced."""

    def write(folder: Path) -> Path:
        write_planetoid(folder)
        content = value if isinstance(value, bytes) else pickle.dumps(value, 2)
        (folder / f"ind.tiny.{part}").write_bytes(content)
        return folder

    return write


def changed_rows(**changes: object) -> scipy.sparse.csr_matrix:
    """Return a sparse matrix of which parts were replaced after it was made."""
    matrix = scipy.sparse.csr_matrix(np.eye(4, 3, dtype=np.float32))
    vars(matrix).update(changes)
    return matrix


def text(name: str, content: str, write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Return a function that writes a graph with one file of it replaced."""

    def change(folder: Path) -> Path:
        path = write(folder)
        (folder / name).write_text(content)
        return path

    return change


PLANETOID = {
    "calls": (broken("graph", Runs(Path("made"))), r"ind\.tiny\.graph holds more than arrays"),
    "cut": (broken("allx", b"\x80\x02cscipy"), r"ind\.tiny\.allx is damaged or incomplete"),
    "no matrix": (broken("allx", np.eye(3)), "must hold a sparse matrix, not a ndarray"),
    "pointers": (broken("allx", changed_rows(indptr=np.array([0, 9, 2, 3, 3]))), "do not fit"),
    "columns": (broken("allx", changed_rows(indices=np.array([0, 1, 9]))), "its 3 columns"),
    "huge": (broken("allx", changed_rows(_shape=(2**39, 2**39))), "do not fit its entries"),
    "wide": (broken("allx", changed_rows(_shape=(4, 2**39))), "would take .* of memory"),
    "overflow": (
        broken("allx", changed_rows(indptr=np.array([0, 2**63 - 1, -2, 3, 3]))),
        "do not fit its entries",
    ),
    "short": (
        broken("allx", changed_rows(indptr=np.array([0, 1, 2, 3, 3], np.int8))),
        "no array indptr of numbers",
    ),
    "shape": (broken("allx", changed_rows(_shape=[4, 3])), "no shape of rows and columns"),
    "texts": (broken("allx", changed_rows(data=np.array(["a"] * 3))), "no array data of numbers"),
    "rows": (broken("ally", np.eye(2)), "classes of 2 nodes, and features are 4"),
    "classes": (broken("ally", np.ones((4, 2))), r"row 0 has no single one"),
    "number of classes": (broken("ty", np.eye(3)[:2]), "3 classes a node, and those before it 2"),
    "edge": (broken("graph", {k: [9] for k in range(7)}), "edge leads to node 9, and .* 0 to 6"),
    "count": (broken("graph", {0: [1]}), "has 1 nodes, and features are of 7"),
    "no lists": (broken("graph", {0: 1}), "dict of each node's list"),
    "long": (broken("graph", {0: [2**70]}), "more than 64 bits"),
    "index": (broken("test.index", b"4\n4\n"), "1 different nodes in 2 lines"),
    "order": (broken("test.index", b"1\n4\n"), "names node 1, and test nodes come after"),
    "word": (broken("test.index", b"4\nfive\n"), "line 2: 'five' is no node"),
}
WEBKB = {
    "twice": (
        "out1_node_feature_label.txt",
        "t\n0\t1,0\t0\n0\t1,0\t0\n",
        "line 3: node 0 is there",
    ),
    "gap": ("out1_node_feature_label.txt", "t\n0\t1,0\t0\n2\t1,0\t0\n", "none of them is node 1"),
    "width": ("out1_node_feature_label.txt", "t\n0\t1,0\t0\n1\t1\t0\n", "1 features where 2"),
    "nan": ("out1_node_feature_label.txt", "t\n0\tnan\t0\n", "1 features where 1 finite"),
    "word": ("out1_node_feature_label.txt", "t\n0\ta\t0\n", "line 2: a feature is no number"),
    "class": ("out1_node_feature_label.txt", "t\n0\t1\t7\n", "class 7 for 1 nodes"),
    "cut": ("out1_node_feature_label.txt", "t\n0\t1\n", "2 fields where 3 must be"),
    "empty": ("out1_node_feature_label.txt", "", "has no node"),
    "edge": ("out1_graph_edges.txt", "t\n0\t3\n", "line 2: '0 3' are not two of the nodes 0 to 2"),
}
EDGES = {
    "node": ("air.edgelist", "10 20\n20 50\n", r"line 2: node 50 is not in .*labels-air\.txt"),
    "word": ("air.edgelist", "10 x\n", "line 1: '10 x' is no edge.* belong into a .csv"),
    "weight": ("air.edgelist", "10 20 -1\n", "line 1: '10 20 -1' is no edge"),
    "fields": ("air.edgelist", "10 20 1 1\n", "line 1: '10 20 1 1' is no edge"),
    "twice": ("labels-air.txt", "t\n10 1\n10 2\n", "line 3: node 10 is there twice"),
    "class": ("labels-air.txt", "t\n10 x\n", "line 2: '10 x' is no node and its class"),
    "empty": ("labels-air.txt", "t\n", "has no node"),
}
DAMAGED = [
    *PLANETOID.values(),
    *((text(name, content, write_webkb), said) for name, content, said in WEBKB.values()),
    *((text(name, content, write_edge_list), said) for name, content, said in EDGES.values()),
]


@pytest.mark.parametrize(
    ("write", "said"),
    DAMAGED,
    ids=[f"{k}-{n}" for k, d in (("p", PLANETOID), ("w", WEBKB), ("e", EDGES)) for n in d],
)
def test_damaged_files_are_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], Path], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    with pytest.raises(ValueError, match=said) as error:
        read_graph(path, None)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        read_graph(tmp_path / "none", None)
    with pytest.raises(FileNotFoundError, match="has no graph"):
        read_graph(tmp_path, None)
    write_planetoid(tmp_path)
    (tmp_path / "ind.tiny.graph").unlink()
    with pytest.raises(FileNotFoundError, match=r"ind\.tiny\.graph: there is no such file"):
        read_graph(tmp_path, None)


def test_several_graphs_in_a_folder_are_refused(tmp_path: Path) -> None:
    write_planetoid(tmp_path)
    (tmp_path / "ind.other.graph").write_bytes(b"")
    with pytest.raises(ValueError, match="holds the graphs other and tiny"):
        read_graph(tmp_path, None)
    with pytest.raises(ValueError, match="belongs to an edge list"):
        read_graph(tmp_path, Path("labels.txt"))


def test_duplicate_entries_are_added_as_in_scipy(tmp_path: Path) -> None:
    matrix = scipy.sparse.csr_matrix(
        (np.array([1.0, 2.0, 1.0, 1.0, 1.0]), np.array([0, 0, 1, 2, 0]), np.array([0, 2, 3, 4, 5]))
    )
    folder = broken("allx", matrix)(tmp_path)
    x = read_graph(folder, None).x
    assert x is not None
    assert torch.equal(x[:4], torch.from_numpy(matrix.toarray()).float())


def test_features_of_many_nodes_are_counted_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_planetoid(tmp_path)
    for part, rows in (("allx", 4), ("tx", 2)):
        matrix = scipy.sparse.csr_matrix((rows, 50), dtype=np.float32)
        (tmp_path / f"ind.tiny.{part}").write_bytes(pickle.dumps(matrix, 2))
    (tmp_path / "ind.tiny.graph").write_bytes(pickle.dumps({k: [] for k in range(201)}, 2))
    (tmp_path / "ind.tiny.test.index").write_text("4\n200\n")
    monkeypatch.setenv("TRIMTAB_MAX_GIB", str(10_000 / 2**30))
    with pytest.raises(ValueError, match="features of all nodes up to its largest would take"):
        read_graph(tmp_path, None)

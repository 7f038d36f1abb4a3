"""Tables of edges: names of nodes and classes, weights, and tables that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules import Graphs
from datamodules.graphs.files import read_graph
from tests.datamodules.graphs.graph_files import write_edge_table


def test_nodes_and_classes_have_names(tmp_path: Path) -> None:
    graph = read_graph(write_edge_table(tmp_path), None)
    assert graph.names == ["Anna", "Bo", "NA", "Émile"]
    assert graph.edge_index.tolist() == [[1, 0, 3], [0, 2, 1]]
    assert graph.edge_weight is not None
    assert graph.edge_weight.tolist() == [0.5, 2, 1]
    assert graph.class_names == ["blue", "red"]
    assert graph.label is not None
    assert graph.label.tolist() == [1, 1, 0, 0]


def test_names_reach_the_datamodule(tmp_path: Path) -> None:
    data = Graphs(str(write_edge_table(tmp_path)))
    data.setup("predict")
    assert data.predict_set is not None
    assert data.predict_set.names == ["Anna", "Bo", "NA", "Émile"]  # type: ignore[attr-defined]
    assert (data.num_classes, data.class_names) == (2, ["blue", "red"])


@pytest.mark.parametrize(
    ("content", "names", "edges"),
    [
        ("0,1\n1,2\n", None, [[0, 1], [1, 2]]),
        ("from;to\n10;9\n9;100\n", ["9", "10", "100"], [[1, 0], [0, 2]]),
        ("from\tto\nb\ta\n\n", ["a", "b"], [[1], [0]]),
        ('"from, first","to"\n"Bo, Jr.",a\n', ["Bo, Jr.", "a"], [[0], [1]]),
    ],
)
def test_titles_and_separators(
    tmp_path: Path, content: str, names: list[str] | None, edges: list[list[int]]
) -> None:
    (tmp_path / "g.csv").write_text(content)
    graph = read_graph(tmp_path / "g.csv", None)
    assert (graph.names, graph.label, graph.edge_weight) == (names, None, None)
    assert graph.edge_index.tolist() == edges
    assert graph.edge_index.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("people.csv", "a,b,c,d\n1,2,3,4\n", "has 4 columns, and an edge is two nodes"),
        ("people.csv", "a,b\nAnna,\n", "line 2, column 'b' is empty"),
        ("people.csv", "a,b,w\nAnna,Bo,much\n", "line 2, column 'w' holds 'much'"),
        ("people.csv", "a,b,w\nAnna,Bo,1\nBo,NA,0\n", "line 3: the weight 0 is not positive"),
        ("people.csv", "a,b,w\nAnna,Bo,1e60\n", "line 2: the weight inf is not positive"),
        ("people.csv", "a,b\nAnna,Bob\n", r"line 2: node 'Bob' is not in .*labels-people\.csv"),
        ("people.csv", "a,b\n", "holds no rows"),
        ("labels-people.csv", "n,c\nBo,red\nBo,red\n", "line 3: node 'Bo' is there twice"),
        ("labels-people.csv", "n\nBo\n", "has 1 columns, not a node and its class"),
    ],
)
def test_other_tables_are_refused_in_one_line(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    path = write_edge_table(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        read_graph(path, None)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)

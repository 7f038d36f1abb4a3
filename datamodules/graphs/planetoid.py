"""The citation networks Cora, Citeseer and PubMed in the pickles of Planetoid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.graphs.given_graph import GivenGraph
from datamodules.labels import plain_integers
from framework.data.restricted_pickle import load_pickle
from framework.data.sparse_pickle import load_sparse_rows
from framework.utilities.limits import check_size, memory_foreseen, read_text, whole_number

CLASS_NAMES = {
    "cora": (
        "Theory",
        "Reinforcement_Learning",
        "Genetic_Algorithms",
        "Neural_Networks",
        "Probabilistic_Methods",
        "Case_Based",
        "Rule_Learning",
    ),
    "citeseer": ("AI", "ML", "IR", "DB", "Agents", "HCI"),
    "pubmed": ("Diabetes_Experimental", "Diabetes_Type_1", "Diabetes_Type_2"),
}
"""Names of the classes by label: those whose sizes in the original sets are the same."""


def read_planetoid(folder: Path, name: str) -> GivenGraph:
    """Read ``ind.<name>.allx``, ``ally``, ``tx``, ``ty``, ``graph`` and ``test.index``.

    Row k of ``tx`` belongs to the node that line k of ``test.index`` names. A node that the graph
    names and that has neither features nor a class, as 15 of Citeseer, is left out with its edges.

    Args:
        folder: Folder of the files.
        name: Name of the data set in the names of the files.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged or contradicts another one.
    """
    paths = {part: folder / f"ind.{name}.{part}" for part in ("allx", "ally", "tx", "ty", "graph")}
    test_path = folder / f"ind.{name}.test.index"
    for path in (*paths.values(), test_path):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file.")
    inputs = load_sparse_rows(paths["allx"])
    label, num_classes = _labels(paths["ally"], len(inputs))
    test_inputs = load_sparse_rows(paths["tx"])
    test_label, test_classes = _labels(paths["ty"], len(test_inputs))
    for path, one, other, what in (
        (paths["tx"], test_inputs.shape[1], inputs.shape[1], "features"),
        (paths["ty"], test_classes, num_classes, "classes"),
    ):
        if one != other:
            raise ValueError(f"{path} has {one} {what} a node, and those before it {other}.")
    test = _test_nodes(test_path, len(test_inputs), len(inputs))
    nodes = int(test.max()) + 1 if len(test) else len(inputs)
    edges = _edges(paths["graph"], nodes)
    known = torch.zeros(nodes, dtype=torch.bool)
    known[: len(inputs)] = True
    known[test] = True
    # there may be many more nodes than rows
    check_size(test_path, 4 * nodes * inputs.shape[1], "features of all nodes up to its largest")
    with memory_foreseen(test_path):
        x = inputs.new_zeros(nodes, inputs.shape[1])
    x[: len(inputs)], x[test] = inputs, test_inputs
    labels = torch.full((nodes,), -1)
    labels[: len(inputs)], labels[test] = label, test_label
    names = CLASS_NAMES.get(name.lower())
    graph = GivenGraph(
        nodes,
        edges,
        x=x,
        label=labels,
        num_classes=num_classes,
        class_names=names if names is not None and len(names) == num_classes else None,
    )
    if known.all():
        return graph
    return graph.kept(known, [str(node) for node in known.nonzero().flatten().tolist()])


def _labels(path: Path, rows: int) -> tuple[Tensor, int]:
    """Return the class of each node, (N,) int64, of rows with a one at the class."""
    found = load_pickle(path)
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "biuf":
        raise ValueError(f"{path} must hold a matrix of numbers with a one at each node's class.")
    if len(found) != rows:
        raise ValueError(f"{path} has the classes of {len(found)} nodes, and features are {rows}.")
    wrong = np.flatnonzero(((found != 0) & (found != 1)).any(1) | (found.sum(1) != 1))
    if len(wrong):
        raise ValueError(f"{path}: row {wrong[0]} has no single one at the node's class.")
    return torch.from_numpy(found.argmax(1).astype(np.int64)), found.shape[1]


def _test_nodes(path: Path, rows: int, first: int) -> Tensor:
    """Return the nodes that the rows of ``tx`` belong to."""
    lines = read_text(path, 128).split()
    numbers = [whole_number(line) for line in lines]
    wrong = next((k for k, number in enumerate(numbers) if number is None), None)
    if wrong is not None:
        raise ValueError(f"{path}, line {wrong + 1}: {lines[wrong][:40]!r} is no node.")
    nodes = [number for number in numbers if number is not None]
    if len(nodes) != rows or len(set(nodes)) < rows:
        raise ValueError(
            f"{path} names {len(set(nodes))} different nodes in {len(nodes)} lines, and there are "
            f"{rows} rows of test features."
        )
    if nodes and not first <= min(nodes) <= max(nodes) <= first + 100 * rows:
        outside = min(nodes) if min(nodes) < first else max(nodes)
        raise ValueError(
            f"{path} names node {outside}, and test nodes come after the {first} others."
        )
    return torch.tensor(nodes, dtype=torch.int64)


def _edges(path: Path, nodes: int) -> Tensor:
    """Return the edges (2, E) of a dict of lists of neighbors."""
    found = load_pickle(path)
    if not isinstance(found, dict) or not all(type(others) is list for others in found.values()):
        raise ValueError(f"{path} must hold a dict of each node's list of neighbors.")
    from_node = plain_integers([*found], f"{path}: its nodes")
    to_node = plain_integers([k for others in found.values() for k in others], f"{path}: neighbors")
    edges = np.stack([np.repeat(from_node, [len(k) for k in found.values()]), to_node])
    for numbers in (from_node, to_node):
        wrong = numbers[(numbers < 0) | (numbers >= nodes)]
        if len(wrong):
            raise ValueError(
                f"{path}: an edge leads to node {wrong[0]}, and features are of nodes 0 to "
                f"{nodes - 1}."
            )
    if len(from_node) != nodes:
        raise ValueError(f"{path} has {len(from_node)} nodes, and features are of {nodes}.")
    return torch.from_numpy(edges)

"""Graphs as a list of edges, with the classes of the nodes in a second file."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.graphs.given_graph import GivenGraph
from datamodules.graphs.webkb import EDGE_BYTES, NODE_BYTES, numbered_lines
from framework.utilities.limits import read_text, whole_number


def label_file_of(path: Path) -> Path | None:
    """Return ``labels-<name>.txt`` or ``.csv`` beside ``<name>.edgelist``, where it is there."""
    beside = (path.with_name(f"labels-{path.stem}{suffix}") for suffix in (".txt", ".csv"))
    return next((file for file in beside if file.is_file()), None)


def read_edge_list(path: Path, labels: Path | None) -> GivenGraph:
    """Read a list of edges, and the classes of their nodes.

    A line of the list names two nodes by whole numbers and may end in a positive weight; a line
    that begins with ``#`` is left out. The label file has a line of titles, then a node and its
    class a line. Nodes are those of the label file, or else of the edges, in ascending order.

    Args:
        path: List of edges.
        labels: Label file; None for none.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A line that is damaged, or names a node that is not there, by its number.
    """
    edges, weight, lines = _read_edges(path)
    label: Tensor | None = None
    classes: list[int] = []
    if labels is None:
        nodes, ends = edges.unique(return_inverse=True)
    else:
        nodes, named = _read_labels(labels)
        ends = torch.searchsorted(nodes, edges).clamp(max=len(nodes) - 1)
        unknown = (nodes[ends] != edges).nonzero()
        if len(unknown):
            end, edge = unknown[unknown[:, 1].argmin()].tolist()
            raise ValueError(
                f"{path}, line {lines[edge]}: node {int(edges[end, edge])} is not in {labels}."
            )
        numbers, label = named.unique(return_inverse=True)
        classes = numbers.tolist()
    if not len(nodes):
        raise ValueError(f"{path} has no edge.")
    plain = torch.equal(nodes, torch.arange(len(nodes)))
    return GivenGraph(
        len(nodes),
        ends,
        weight,
        label=label,
        num_classes=len(classes) or None,
        class_names=None if classes == [*range(len(classes))] else [str(k) for k in classes],
        names=None if plain else [str(node) for node in nodes.tolist()],
    )


def _read_edges(path: Path) -> tuple[Tensor, Tensor, array[int]]:
    """Return the edges (2, E) by the names of nodes, their weights, and the lines of each."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    pairs, weights, lines = array("q"), array("f"), array("q")
    for number, line in enumerate(read_text(path, EDGE_BYTES).splitlines(), start=1):
        fields = line.split()
        if not fields or line.startswith("#"):
            continue
        ends = [end for end in map(whole_number, fields[:2]) if end is not None]
        weight = _weight(fields[2]) if len(fields) == 3 else 1.0
        if len(ends) < 2 or len(fields) > 3 or weight is None:
            raise ValueError(
                f"{path}, line {number}: {line[:40]!r} is no edge; it must be two whole numbers, "
                "with a positive weight or none; titles and names of nodes belong into a .csv."
            )
        pairs.extend(ends)
        weights.append(weight)
        lines.append(number)
    edges = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T.contiguous()
    return edges, torch.tensor(weights), lines


def _weight(text: str) -> float | None:
    try:
        weight = np.float32(text)
    except ValueError:
        return None
    return float(weight) if 0 < weight < np.inf else None


def _read_labels(path: Path) -> tuple[Tensor, Tensor]:
    """Return the nodes in ascending order, and the class of each, as the file names them."""
    found: dict[int, int] = {}
    for number, fields in numbered_lines(path, 2, None, NODE_BYTES):
        node, label = whole_number(fields[0]), whole_number(fields[1])
        if node is None or label is None:
            raise ValueError(
                f"{path}, line {number}: {' '.join(fields)[:40]!r} is no node and its class."
            )
        if node in found:
            raise ValueError(f"{path}, line {number}: node {node} is there twice.")
        found[node] = label
    if not found:
        raise ValueError(f"{path} has no node.")
    nodes = sorted(found)
    return torch.tensor(nodes), torch.tensor([found[node] for node in nodes])

"""Web pages of universities and their links, in the text files of Geom-GCN."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.graphs.given_graph import GivenGraph
from framework.utilities.limits import read_text, whole_number

NODES = "out1_node_feature_label.txt"
EDGES = "out1_graph_edges.txt"
NODE_BYTES = 128
"""Memory that a byte of a file of nodes takes at most, where every node has a short line."""
EDGE_BYTES = 32
"""Memory that a byte of a file of edges takes at most."""


def read_webkb(folder: Path) -> GivenGraph:
    """Read ``out1_node_feature_label.txt`` and ``out1_graph_edges.txt``.

    Each has a line of titles; then a line is a node, its features with commas between them and its
    class, or the two nodes of an edge, parted by tabs.

    Args:
        folder: Folder of the files.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A line that is damaged or contradicts another one, by its number.
    """
    x, label = _read_nodes(folder / NODES)
    return GivenGraph(
        len(x),
        read_pairs(folder / EDGES, len(x)),
        x=x,
        label=label,
        num_classes=int(label.max()) + 1,
    )


def _read_nodes(path: Path) -> tuple[Tensor, Tensor]:
    features: dict[int, np.ndarray] = {}
    labels: dict[int, int] = {}
    width = None
    for number, fields in numbered_lines(path, 3, "\t", NODE_BYTES):
        node, label = whole_number(fields[0]), whole_number(fields[2])
        if node is None or label is None:
            raise ValueError(f"{path}, line {number}: a node and its class must be whole numbers.")
        if node in labels:
            raise ValueError(f"{path}, line {number}: node {node} is there twice.")
        try:
            row = np.array(fields[1].split(","), dtype=np.float32)
        except ValueError:
            raise ValueError(f"{path}, line {number}: a feature is no number.") from None
        width = len(row) if width is None else width
        if len(row) != width or not np.isfinite(row).all():
            raise ValueError(
                f"{path}, line {number}: {len(row)} features where {width} finite ones must be."
            )
        features[node], labels[node] = row, label
    count = len(labels)
    if not count:
        raise ValueError(f"{path} has no node.")
    missing = next((node for node in range(count) if node not in labels), None)
    if missing is not None:
        raise ValueError(f"{path} has {count} nodes, and none of them is node {missing}.")
    classes = torch.tensor([labels[node] for node in range(count)])
    if classes.max() >= count:
        raise ValueError(f"{path}: class {int(classes.max())} for {count} nodes.")
    return torch.from_numpy(np.stack([features[node] for node in range(count)])), classes


def read_pairs(path: Path, nodes: int) -> Tensor:
    """Return the edges (2, E) of a file with a line of titles and two nodes a line."""
    pairs = array("q")
    for number, fields in numbered_lines(path, 2, "\t", EDGE_BYTES):
        ends = [end for end in map(whole_number, fields) if end is not None and end < nodes]
        if len(ends) < 2:
            raise ValueError(
                f"{path}, line {number}: {' '.join(fields)[:40]!r} are not two of the nodes 0 to "
                f"{nodes - 1}."
            )
        pairs.extend(ends)
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T


def numbered_lines(
    path: Path, fields: int, separator: str | None, factor: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line after the first, empty ones left out.

    Args:
        path: Text file.
        fields: Number of fields.
        separator: What parts them; None for blanks.
        factor: Bytes of memory that each byte takes at most.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line has another number of fields.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    lines = read_text(path, factor).splitlines()
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        found = line.strip().split(separator)
        if len(found) != fields:
            raise ValueError(f"{path}, line {number}: {len(found)} fields where {fields} must be.")
        yield number, found

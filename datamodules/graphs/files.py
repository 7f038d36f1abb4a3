"""Which of the formats a graph on disk has."""

from __future__ import annotations

import os
import re
from pathlib import Path

from datamodules.graphs.edge_list import label_file_of, read_edge_list
from datamodules.graphs.edge_table import SUFFIXES, read_edge_table
from datamodules.graphs.given_graph import GivenGraph
from datamodules.graphs.planetoid import read_planetoid
from datamodules.graphs.webkb import EDGES, NODES, read_webkb

_PLANETOID = re.compile(r"ind\.([\w-]+)\.(?:x|y|tx|ty|allx|ally|graph|test\.index)", re.ASCII)


def read_graph(path: Path, labels: Path | None) -> GivenGraph:
    """Read a graph in the format that its files show.

    Args:
        path: Folder of Planetoid's or WebKB's files or the folder above ``raw``, or a list of
            edges.
        labels: File of the classes of a list of edges; default ``labels-<name>.txt`` or ``.csv``
            beside it.

    Raises:
        FileNotFoundError: Nothing is there, or no file of a known format.
        ValueError: Files of several graphs, or see the format's reader.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder.")
    if not path.is_dir():
        read = read_edge_table if path.suffix in SUFFIXES else read_edge_list
        return read(path, label_file_of(path) if labels is None else labels)
    if labels is not None:
        raise ValueError(f"{path} is a folder, and labels={str(labels)!r} belongs to an edge list.")
    folder = path / "raw" if (path / "raw").is_dir() else path
    found = os.listdir(folder)
    names = sorted({match[1] for match in map(_PLANETOID.fullmatch, found) if match})
    if len(names) > 1:
        raise ValueError(
            f"{folder} holds the graphs {' and '.join(names)}: put each into a folder of its own."
        )
    if names:
        return read_planetoid(folder, names[0])
    if NODES in found or EDGES in found:
        return read_webkb(folder)
    raise FileNotFoundError(
        f"{folder} has no graph: Planetoid's ind.<name>.graph, WebKB's {EDGES}, or give the path "
        "of a list of edges."
    )

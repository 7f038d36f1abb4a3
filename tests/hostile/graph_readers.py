"""Readers of graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.datamodules.graphs.graph_files import (
    write_edge_list,
    write_edge_table,
    write_planetoid,
    write_webkb,
)
from tests.hostile.mutations import BYTES
from tests.hostile.registry import PICKLE, TEXTS, reader


def _files(write: Callable[[Path], Path]) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        write(Path(folder))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@reader(
    "planetoid",
    lambda: _files(write_planetoid),
    [
        "datamodules.graphs.planetoid:read_planetoid",
        "datamodules.graphs.planetoid:_labels",
        "datamodules.graphs.planetoid:_edges",
        "datamodules.graphs.planetoid:_test_nodes",
        "framework.data.sparse_pickle:load_sparse_rows",
    ],
    (*PICKLE, *BYTES),
)
def _(folder: Path) -> Any:
    return _read(folder)


@reader(
    "webkb",
    lambda: _files(write_webkb),
    ["datamodules.graphs.webkb:numbered_lines"],
    TEXTS,
)
def _(folder: Path) -> Any:
    return _read(folder)


@reader(
    "edge-list",
    lambda: _files(write_edge_list),
    ["datamodules.graphs.edge_list:_read_edges", "datamodules.graphs.webkb:numbered_lines"],
    TEXTS,
)
def _(folder: Path) -> Any:
    return _read(folder / "air.edgelist")


@reader(
    "edge-table",
    lambda: _files(write_edge_table),
    ["datamodules.table_reader:_split"],
    TEXTS,
)
def _(folder: Path) -> Any:
    return _read(folder / "people.csv")


def _read(path: Path) -> Any:
    from datamodules import Graphs

    data = Graphs(str(path))
    data.setup("fit")
    return data.train_set

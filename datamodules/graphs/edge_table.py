"""Graphs as a table of edges, whose nodes and classes have any names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.graphs.given_graph import GivenGraph
from datamodules.table_reader import Table, read_table
from framework.utilities.limits import whole_number

SUFFIXES = (".csv", ".parquet")
"""Ends of the names of tables."""


def read_edge_table(path: Path, labels: Path | None) -> GivenGraph:
    """Read a table of edges, and the classes of their nodes.

    The first two columns hold the nodes of an edge, a third one its positive weight. A table of
    labels holds a node and its class. Nodes are those of the labels, or else of the edges: in
    ascending order where all their names are whole numbers, else in that of the alphabet.

    Args:
        path: Table of edges.
        labels: Table of the classes; None for none.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A table of other columns, or a row that is damaged or names a node that is not
            there, by its line.
    """
    table = read_table(path)
    if len(table.names) not in (2, 3):
        raise ValueError(
            f"{path} has {len(table.names)} columns, and an edge is two nodes, with a positive "
            "weight or none."
        )
    starts, ends = (_names(table, column) for column in (0, 1))
    weight = _weights(table) if len(table.names) == 3 else None
    label: Tensor | None = None
    classes: list[str] = []
    if labels is None:
        nodes = _in_order({*starts, *ends})
    else:
        found = _read_classes(labels)
        nodes, classes = _in_order(found), _in_order({*found.values()})
        number = {name: k for k, name in enumerate(classes)}
        label = torch.tensor([number[found[node]] for node in nodes])
        for row, node in enumerate(zip(starts, ends, strict=True)):
            unknown = next((name for name in node if name not in found), None)
            if unknown is not None:
                raise ValueError(
                    f"{path}, {_place(table, row)}: node {unknown[:40]!r} is not in {labels}."
                )
    position = {name: k for k, name in enumerate(nodes)}
    return GivenGraph(
        len(nodes),
        torch.tensor([[position[name] for name in side] for side in (starts, ends)]),
        weight,
        label=label,
        num_classes=len(classes) or None,
        class_names=None if _are_positions(classes) else classes,
        names=None if _are_positions(nodes) else nodes,
    )


def _names(table: Table, column: int) -> list[str]:
    """Return the cells of a column as they are: NA may be a name."""
    names = ["" if cell is None else str(cell) for cell in table.cells[column]]
    if "" in names:
        raise ValueError(
            f"{table.source}, {_place(table, names.index(''))}, column "
            f"{table.names[column]!r} is empty."
        )
    return names


def _weights(table: Table) -> Tensor:
    with np.errstate(over="ignore"):
        weights = table.numbers(2).astype(np.float32)
    wrong = np.flatnonzero(~((weights > 0) & (weights < np.inf)))
    if len(wrong):
        raise ValueError(
            f"{table.source}, {_place(table, wrong[0])}: the weight {weights[wrong[0]]:g} is not "
            "positive and finite."
        )
    return torch.from_numpy(weights)


def _read_classes(path: Path) -> dict[str, str]:
    """Return the class of each node."""
    table = read_table(path)
    if len(table.names) != 2:
        raise ValueError(f"{path} has {len(table.names)} columns, not a node and its class.")
    found: dict[str, str] = {}
    for row, (node, label) in enumerate(zip(_names(table, 0), _names(table, 1), strict=True)):
        if node in found:
            raise ValueError(f"{path}, {_place(table, row)}: node {node[:40]!r} is there twice.")
        found[node] = label
    return found


def _in_order(names: Iterable[str]) -> list[str]:
    by_name = sorted(names)
    numbers = {name: whole_number(name) for name in by_name}
    if None in numbers.values():
        return by_name
    return sorted(by_name, key=lambda name: numbers[name] or 0)


def _are_positions(names: list[str]) -> bool:
    return names == [str(k) for k in range(len(names))]


def _place(table: Table, row: int) -> str:
    return f"row {row + 1}" if table.lines is None else f"line {table.lines[row]}"

"""Small graphs on disk, in the formats that are read."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import scipy.sparse

PLANETOID_LABELS = [0, 1, 0, 1, 1, 0]


def write_planetoid(folder: Path, protocol: int = 2) -> Path:
    """Write six nodes: four first, then two of the test set, named in the order 6, 4; 5 is absent.

    The word of a node k of the test set has the number k - 4; the graph is a ring.
    """
    first = np.zeros((4, 3), np.float32)
    first[range(4), [0, 1, 2, 0]] = 1
    test = np.zeros((2, 3), np.float32)
    test[0, 2] = test[1, 0] = 1  # node 6, node 4
    ring = defaultdict(list, {k: [(k + 1) % 7, (k - 1) % 7] for k in range(7)})
    ring[0] += [0, 1]  # a self-loop, and an edge that is there already
    content = {
        "allx": scipy.sparse.csr_matrix(first),
        "tx": scipy.sparse.csr_matrix(test),
        "ally": np.eye(2, dtype=np.int32)[[0, 1, 0, 1]],
        "ty": np.eye(2, dtype=np.int32)[[0, 1]],
        "graph": ring,
    }
    for part, value in content.items():
        (folder / f"ind.tiny.{part}").write_bytes(pickle.dumps(value, protocol))
    (folder / "ind.tiny.test.index").write_text("6\n4\n")
    return folder


def write_webkb(folder: Path) -> Path:
    """Write three pages of two classes, in another order than that of their numbers."""
    (folder / "out1_node_feature_label.txt").write_text(
        "node_id\tfeature\tlabel\n2\t0,0,1\t1\n0\t1,0,0\t0\n1\t0,1,0.5\t1\n"
    )
    (folder / "out1_graph_edges.txt").write_text("node_id\tnode_id\n0\t1\n1\t0\n2\t2\n2\t1\n")
    return folder


def write_edge_list(folder: Path) -> Path:
    """Write four airports, numbered from 10 in steps of ten."""
    (folder / "labels-air.txt").write_text("node label\n10 3\n20 3\n40 5\n30 5\n")
    path = folder / "air.edgelist"
    path.write_text("# flights\n10 20\n20 10\n30 40 2.5\n\n40 20\n")
    return path


def write_edge_table(folder: Path) -> Path:
    """Write four people with names, of two classes."""
    (folder / "labels-people.csv").write_text(
        "person,team\nBo,red\nAnna,red\nÉmile,blue\nNA,blue\n", encoding="utf-8"
    )
    path = folder / "people.csv"
    path.write_text("from,to,weight\nBo,Anna,0.5\nAnna,NA,2\nÉmile,Bo,1\n", encoding="utf-8")
    return path

"""How quickly powers of an adjacency fill up: pairs of nodes, memory and time by the order.

    python -m benchmarks.graph_powers
    python -m benchmarks.graph_powers data/planetoid/Cora

Without a graph it takes the digits, each joined to its five nearest.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

from datamodules import Digits, Graphs
from framework.graphs import adjacency_powers
from framework.graphs.powers import ENTRY_BYTES, GraphTooDenseError


def main() -> None:
    """Print a row per order, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", nargs="?", help="folder or list of edges of a graph")
    parser.add_argument("--orders", type=int, default=6, help="largest order")
    arguments = parser.parse_args()
    data = Graphs(data=Digits()) if arguments.path is None else Graphs(arguments.path)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    nodes = len(batch["x"])
    graph = batch["edge_index"], nodes, batch["edge_weight"]
    adjacency_powers(*graph)  # what is imported at the first call is not measured
    print("| order | pairs | of all | refused below | peak | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for order in range(1, arguments.orders + 1):
        tracemalloc.start()
        try:
            pairs = adjacency_powers(*graph, order=order)[0].shape[1]
        except GraphTooDenseError as error:
            print(error)
            return
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        start = time.perf_counter()
        adjacency_powers(*graph, order=order)
        seconds = time.perf_counter() - start
        print(
            f"| {order} | {pairs:,} | {pairs / nodes**2:.1%} | {pairs * ENTRY_BYTES / 2**20:.1f} "
            f"MiB | {peak / 2**20:.1f} MiB | {seconds:.2f} |"
        )


if __name__ == "__main__":
    main()

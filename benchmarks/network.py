"""The time that collectives take between many GPUs, on paper: from bytes, calls and links."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


def extrapolate(measured: Mapping[int, float], ranks: int) -> float:
    """Return what a rank hands in on ``ranks`` ranks, on the line through two measured numbers.

    With the rows of a rank fixed, a payload is constant, as a row's share of a gather is, or grows
    with the number of ranks, as the gradient of what was gathered does.

    Example:
        >>> extrapolate({2: 10.0, 4: 14.0}, ranks=8)
        22.0
    """
    (w, low), (v, high) = sorted(measured.items())
    return max(0.0, low + (high - low) * (ranks - w) / (v - w))


def on_the_wire(kind: str, sent: float, ranks: int) -> float:
    """Return the bytes that leave a rank, whose payload is ``sent``.

    A ring reduces by ``2 (W - 1) / W`` times the payload, and gathers by ``W - 1`` times; of an
    all-to-all all but the own part leaves; a pipelined broadcast passes everything on once.

    Example:
        >>> on_the_wire("all-reduce", 100.0, ranks=4)
        150.0
    """
    factors = {
        "gradients": 2 * (ranks - 1) / ranks,
        "all-reduce": 2 * (ranks - 1) / ranks,
        "all-gather": ranks - 1,
        "all-to-all": (ranks - 1) / ranks,
        "buffers": 1,
        "broadcast": 1,
        "barrier": 0,
    }
    return sent * factors[kind]


@dataclass
class Network:
    """GPUs in nodes.

    Args:
        gpus_per_node: GPUs that the faster links join.
        within: Bytes per second and direction of a GPU's link in a node.
        between: Bytes per second and direction of a GPU's link to other nodes.
        hop: Seconds that a message takes from one GPU to the next, however small.
    """

    gpus_per_node: int
    within: float
    between: float
    hop: float

    def seconds(self, kind: str, sent: float, calls: float, ranks: int) -> float:
        """Return the time of ``calls`` collectives with ``sent`` bytes together.

        The slowest link counts, and each call takes a hop per level of a binary tree.
        """
        link = self.within if ranks <= self.gpus_per_node else self.between
        hops = math.ceil(math.log2(ranks))
        return on_the_wire(kind, sent, ranks) / link + calls * hops * self.hop

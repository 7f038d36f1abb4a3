"""Bytes on the way are counted to the byte, and follow the formulas of rings."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.communication import CountedTraffic, Traffic, mean_traffic
from benchmarks.method_traffic import FEW, MANY, byte_row, limit_row
from benchmarks.network import Network, extrapolate, on_the_wire
from framework.distributed.collectives import all_reduce_sum, all_to_all, barrier, gather, rank
from framework.distributed.sample_state import SampleState


def collectives() -> Traffic:
    with CountedTraffic() as counted:
        all_reduce_sum(torch.ones(5, dtype=torch.float64))
        gather(torch.ones(3, 2), counts=[3, 3])
        all_to_all(torch.ones(4, 2), [1, 3] if rank() else [2, 2])
        dist.broadcast(torch.ones(6, dtype=torch.float16), src=0)
        barrier()
    return counted.traffic


@pytest.mark.combination
def test_every_collective_is_counted_to_the_byte(two_ranks) -> None:
    for traffic in two_ranks(collectives):
        # an all-to-all sends its counts, two of int64, before its rows
        assert traffic.sent == {
            "all-reduce": 5 * 8,
            "all-gather": 3 * 2 * 4,
            "all-to-all": 2 * 8 + 4 * 2 * 4,
            "broadcast": 6 * 2,
            "barrier": 0,
        }
        assert traffic.calls == {
            "all-reduce": 1,
            "all-gather": 1,
            "all-to-all": 2,
            "broadcast": 1,
            "barrier": 1,
        }


def gradients_and_a_table() -> list[Traffic]:
    network = DistributedDataParallel(nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3)))
    table = SampleState(10, (2,), dtype=torch.float16)
    counted, taken = CountedTraffic(), []
    with counted:
        # before its second step DDP agrees on an order of gradients
        for _ in range(3):
            counted.take()
            network(torch.randn(4, 7)).sum().backward()
            taken.append(counted.take())
        table.write(torch.arange(4), torch.ones(4, 2))
    return [taken[-1], counted.take()]


def test_what_ddp_sends_is_told_apart(two_ranks) -> None:
    for step, write in two_ranks(gradients_and_a_table):
        # of batch norm two means and variances, and the number of its batches
        assert step.sent == {"gradients": (7 * 3 + 3 + 3 + 3) * 4, "buffers": 2 * 3 * 4 + 8}
        # the number of rows of each rank, 4 places and 4 rows of two numbers
        assert write.sent == {"all-gather": 8 + 4 * 8 + 4 * 2 * 2}


def test_a_ring_of_two_sends_the_whole_once() -> None:
    assert on_the_wire("all-reduce", 100, ranks=2) == 100
    assert on_the_wire("all-gather", 100, ranks=2) == 100
    assert on_the_wire("all-to-all", 100, ranks=2) == 50
    assert on_the_wire("all-reduce", 100, ranks=256) == pytest.approx(200, rel=0.01)
    assert on_the_wire("all-gather", 100, ranks=256) == 25_500


def test_the_slowest_link_and_the_hops_count() -> None:
    network = Network(gpus_per_node=8, within=100.0, between=10.0, hop=0.5)
    assert network.seconds("all-gather", sent=10, calls=0, ranks=8) == pytest.approx(0.7)
    assert network.seconds("all-gather", sent=10, calls=0, ranks=16) == pytest.approx(15)
    assert network.seconds("barrier", sent=0, calls=2, ranks=8) == pytest.approx(3)


def test_payloads_grow_as_two_measurements_say() -> None:
    assert extrapolate({2: 8.0, 4: 8.0}, 256) == 8
    assert extrapolate({2: 8.0, 4: 16.0}, 256) == 1024


def test_rows_of_the_tables() -> None:
    by_ranks = {
        FEW: {"gradients": (1e9, 1.0), "all-gather": (50.0, 2.0)},
        MANY: {"gradients": (1e9, 1.0), "all-gather": (70.0, 2.0)},
    }
    row = byte_row("classifier", by_ranks)
    assert row == "| classifier | 64 | 1,000,000,000 | 50 / 70 | all-gather 50 / 70 (2) |"
    network = Network(gpus_per_node=8, within=1e9, between=1e9, hop=0)
    cells = limit_row("classifier", by_ranks, network, [4]).split(" | ")
    assert cells == ["| classifier", "1500.000", "0.000", "13500.0 |"]


def test_the_mean_of_steps_counts_what_was_missing() -> None:
    one = Traffic(sent=Counter({"all-reduce": 8}), calls=Counter({"all-reduce": 1}))
    assert mean_traffic([one, Traffic(Counter(), Counter())]) == {"all-reduce": (4.0, 0.5)}

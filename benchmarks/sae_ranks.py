"""What it costs that two ranks select from one batch, in bytes and in time.

    python -m benchmarks.sae_ranks [--tokens 4096] [--features 24576] [--rounds 8]

Two processes on this machine, joined by gloo, hold half of the tokens each, one thread each. With
synchronization they choose from all tokens, without it from their own. Bytes are what one rank
hands to collectives in one selection.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from statistics import median

from benchmarks.communication import CountedTraffic
from benchmarks.timing import machine, pin_allocator

RANKS, K = 2, 32


def work(rank: int, folder: str, tokens: int, features: int, rounds: int) -> None:
    """Measure on one rank; rank 0 prints."""
    import torch
    import torch.distributed as dist

    from framework.sparse_coding.selection import FeatureChoice, MutualChoice

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS
    )
    generator = torch.Generator().manual_seed(rank)
    scores = torch.randn(tokens // RANKS, features, generator=generator)
    rules = {"mutual choice": MutualChoice, "feature choice": FeatureChoice}
    for name, rule in rules.items():
        arms = {sync: rule(K, sync=sync) for sync in (False, True)}
        for arm in arms.values():
            arm.setup(features)
            arm.positions(scores)
        with CountedTraffic() as counted:
            arms[True].positions(scores)
        sent, calls = (sum(part.values()) for part in (counted.traffic.sent, counted.traffic.calls))
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds):
            for sync, arm in arms.items():
                dist.barrier()
                start = time.perf_counter()
                arm.positions(scores)
                dist.barrier()
                times[sync].append(time.perf_counter() - start)
        if rank == 0:
            alone, together = median(times[False]), median(times[True])
            print(
                f"  {name:16s} own tokens {alone * 1e3:9.1f} ms, all tokens {together * 1e3:9.1f} "
                f"ms ({together / alone:.2f}); {calls} collectives, {sent:,} bytes"
            )
    dist.destroy_process_group()


def main() -> None:
    """Run and print."""
    import torch.multiprocessing as mp

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096, help="of the global batch")
    parser.add_argument("--features", type=int, default=24576)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    print(f"{machine()}, {RANKS} ranks, {arguments.tokens} tokens, {arguments.features} features")
    with tempfile.TemporaryDirectory() as folder:
        given = (folder, arguments.tokens, arguments.features, arguments.rounds)
        mp.spawn(work, given, nprocs=RANKS)


if __name__ == "__main__":
    pin_allocator()
    main()

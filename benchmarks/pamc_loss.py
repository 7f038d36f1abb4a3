"""PamC's loss against that of all pairs of nodes: seconds and memory of forward and backward.

    python -m benchmarks.pamc_loss [--nodes 2000 4000 8000] [--device cuda]

Random embeddings of ten numbers, ten clusters, ten neighbors a node; the graph is drawn before the
clock starts. Memory is the growth of the process's peak in a process of its own, or the GPU's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from benchmarks.timing import ALLOCATOR, interleaved_medians, machine, pin_allocator

Objective = Literal["pamc", "full_negative", "dense"]
NODES = (2_000, 4_000, 8_000, 16_000, 32_000)
CLUSTERS, DEGREE, DIM = 10, 10, 10


def loss_step(nodes: int, objective: Objective, device: str = "cpu") -> Callable[[], None]:
    """Return a function that computes a loss of N random nodes and its gradient.

    Args:
        nodes: Number of nodes N.
        objective: ``pamc``, ``full_negative`` in parts of bounded memory, or ``dense``, the same
            with all pairs in memory at once.
        device: Device that computes.
    """
    import torch

    from framework.graphs import FullNegativeLoss, PamCLoss

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(nodes, DIM, generator=generator).to(device).requires_grad_()
    row = torch.arange(nodes).repeat_interleave(DEGREE)
    column = torch.randint(nodes, (nodes * DEGREE,), generator=generator)
    edges = torch.stack([row, column]).to(device)
    weight = torch.full((nodes * DEGREE,), 1 / DEGREE, device=device)
    assign = torch.randint(CLUSTERS, (nodes,), generator=generator).to(device)
    pamc = PamCLoss()
    full = FullNegativeLoss(pairs=nodes**2) if objective == "dense" else FullNegativeLoss()

    def step() -> None:
        z.grad = None
        if objective == "pamc":
            loss = pamc(z, edges, weight, assign, CLUSTERS)
        else:
            loss = full(z, edges, weight)
        loss.backward()

    return step


def peak_bytes(nodes: int, objective: Objective, device: str = "cpu") -> int:
    """Return the memory that a step takes at most, beyond what was there before it."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_growth, (nodes, objective, device))


def _growth(nodes: int, objective: Objective, device: str) -> int:
    import torch

    # what a first step loads does not count
    loss_step(100, objective, device)()
    step = loss_step(nodes, objective, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    # from here on the kernel's peak is that of the step
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """Return a line of the process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """Print seconds and memory for every number of nodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(machine(arguments.device))
    objectives: tuple[Objective, ...] = ("pamc", "full_negative")
    for nodes in arguments.nodes:
        arms: dict[str, Callable[[], None]] = {
            name: loss_step(nodes, name, arguments.device) for name in objectives
        }
        seconds = interleaved_medians(arms, arguments.rounds, warmup=1)
        # a pinned allocator would hide what is taken
        for variable in ALLOCATOR:
            os.environ.pop(variable, None)
        memory = {name: peak_bytes(nodes, name, arguments.device) for name in objectives}
        ratio = seconds["full_negative"] / seconds["pamc"]
        parts = [f"{n} {seconds[n] * 1e3:.1f} ms {memory[n] / 2**20:.0f} MiB" for n in objectives]
        print(f"{nodes:,} nodes: {', '.join(parts)}; all negatives take {ratio:.1f} times as long")


if __name__ == "__main__":
    pin_allocator()
    main()

"""What the Cauchy-Schwarz losses cost beside squared error, and their memory on large batches.

    python -m benchmarks.csib [--device cuda] [--rounds 30]

A training step of the paper's network (10-128-128-32-128-1, Adam). Goal at 128 rows: at most 1.5 of
the step with squared error. Then the peak memory of a step, whole and in blocks of rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.memory import peak_bytes
from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

GOALS = {"ConditionalCSDivergenceLoss": 1.5, "CSIBLoss": 1.5}


def make_step(loss: Any, rows: int, device: str) -> Callable[[], None]:
    """Return a function that takes one training step of a network of its own."""
    import torch

    from modules.regressor.network import RegressorNetwork

    torch.manual_seed(0)
    network = RegressorNetwork(10, 1, (128, 128), 32, (128,)).to(device)
    optimizer = torch.optim.Adam(network.parameters())
    x, y = torch.randn(rows, 10, device=device), torch.randn(rows, device=device)

    def step() -> None:
        optimizer.zero_grad()
        predictions, features = network(x)
        available = {"inputs": x, "features": features}
        needs = {name: available[name] for name in getattr(loss, "needs", ())}
        loss(predictions, y, **needs).backward()
        optimizer.step()

    return step


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    import torch

    from framework.losses import ConditionalCSDivergenceLoss, CSIBLoss

    device = arguments.device
    print(machine(device))
    for rows in (128, 1024):
        kinds: list[Any] = [torch.nn.MSELoss(), ConditionalCSDivergenceLoss(), CSIBLoss()]
        arms = {type(loss).__name__: make_step(loss, rows, device) for loss in kinds}
        medians = interleaved_medians(arms, arguments.rounds)
        goals = GOALS if rows == 128 else None
        print_ratios(f"training step, {rows} rows", medians, "MSELoss", goals)
    print("\npeak memory of a step with CSIBLoss")
    for rows, chunk in ((4096, 4096), (4096, 512)):
        step = make_step(CSIBLoss(chunk_size=chunk), rows, device)
        size = peak_bytes(step, device) / 2**20
        print(f"  {rows:6d} rows in blocks of {chunk:5d} {size:10.1f} MiB")


if __name__ == "__main__":
    pin_allocator()
    main()

"""What every loss costs beside cross-entropy: time and peak memory of forward and backward.

    python -m benchmarks.losses [--device cuda] [--rounds 9] [--rows 4096] [--classes 1000]

Every classification loss, with its default arguments, on logits (4096, 1000) in float32 and
bfloat16 against ``F.cross_entropy`` on the same ones. Goal: at most 2.0 times for every loss
without extra forward passes. Memory is the peak of what is alive beyond the logits; on a CPU it
counts the storages that torch operations return.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.memory import peak_bytes
from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

GOAL = 2.0


def arms(rows: int, classes: int, dtype: str, device: str) -> dict[str, Callable[[], None]]:
    """Return forward and backward of every loss on the same logits."""
    import torch
    import torch.nn.functional as F

    import framework.losses
    from framework.losses import ClassificationLoss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator).to(device, getattr(torch, dtype))
    logits.requires_grad_()
    labels = torch.randint(classes, (rows,), generator=generator).to(device)
    # pairs of rows, as AggregateResponseLoss takes them
    shares = F.one_hot(labels, classes).float().view(rows // 2, 2, classes).mean(1)
    shares = shares.repeat_interleave(2, 0)
    available: dict[str, Any] = {
        "index": torch.arange(rows, device=device),
        "group": torch.arange(rows, device=device) // 2,
        "epoch": 0,
        "step": 0,
    }

    def arm(loss: Callable[..., torch.Tensor]) -> Callable[[], None]:
        keywords = {name: available[name] for name in getattr(loss, "needs", ())}
        targets = shares if "group" in keywords else labels

        def run() -> None:
            logits.grad = None
            loss(logits, targets, **keywords).backward()

        return run

    result = {"F.cross_entropy": arm(F.cross_entropy)}
    for name in sorted(framework.losses.__all__):
        kind = getattr(framework.losses, name)
        if not (isinstance(kind, type) and issubclass(kind, ClassificationLoss)):
            continue
        if kind is ClassificationLoss or "forward" in kind.needs:
            continue
        loss = kind(base="ce") if "group" in kind.needs else kind()
        loss.setup(rows, classes, torch.device(device))
        result[name] = arm(loss)
    return result


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=1000)
    arguments = parser.parse_args()
    rows, classes, device = arguments.rows, arguments.classes, arguments.device
    print(machine(device))
    for dtype in ("float32", "bfloat16"):
        measured = arms(rows, classes, dtype, device)
        medians = interleaved_medians(measured, arguments.rounds)
        goals = dict.fromkeys(list(measured)[1:], GOAL)
        title = f"forward + backward, ({rows}, {classes}) {dtype}, median of {arguments.rounds}"
        print_ratios(title, medians, "F.cross_entropy", goals)
        peaks = {name: peak_bytes(run, device) for name, run in measured.items()}
        print(f"\npeak memory beyond the logits, ({rows}, {classes}) {dtype}")
        for name, peak in peaks.items():
            ratio = peak / peaks["F.cross_entropy"]
            print(f"  {name:32s} {peak / 2**20:10.1f} MiB  {ratio:6.2f}")


if __name__ == "__main__":
    pin_allocator()
    main()

"""Paired, interleaved timing with medians, in a process whose allocator holds still."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping

# glibc otherwise gives large buffers back and takes them anew at each step, or not, by chance
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def pin_allocator() -> None:
    """Start this process again with glibc's allocator pinned; call it before importing torch."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        environment = os.environ | ALLOCATOR
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def interleaved_medians(
    arms: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2
) -> dict[str, float]:
    """Return the median seconds of each arm.

    The arms take turns, so that what else the machine does hits all of them alike.
    """
    for _ in range(warmup):
        for arm in arms.values():
            arm()
            synchronize()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine(device: str = "cpu") -> str:
    """Return what ran: device, torch version and threads."""
    import torch

    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return f"{name}, torch {torch.__version__}"


def print_ratios(
    title: str,
    medians: Mapping[str, float],
    baseline: str,
    goals: Mapping[str, float] | None = None,
) -> None:
    """Print every arm's time and its ratio to the baseline, and whether a goal is met."""
    print(f"\n{title}")
    for name, seconds in medians.items():
        ratio = seconds / medians[baseline]
        line = f"  {name:32s} {seconds * 1e3:10.3f} ms   {ratio:6.3f}"
        goal = (goals or {}).get(name)
        if goal is not None:
            line += f"   goal {goal:.2f}: {'met' if ratio <= goal else 'MISSED'}"
        print(line)

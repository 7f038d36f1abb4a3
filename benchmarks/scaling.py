"""What more ranks cost: throughput, bytes on the way, checkpoints, and the limit on many GPUs.

    python -m benchmarks.scaling [--rounds 3] [--only throughput bytes] [--methods saf csib]

Tables in Markdown:

1. Throughput of a ResNet-18 on 3 x 32 x 32 images, 128 per rank, on one core and on two ranks that
   are pinned to a core each, in turns with two runs at once that know nothing of each other, which
   show what the cores take from one another. Goal: an efficiency of at least 0.9.
2. The time of a checkpoint of that run, and its share of the run.
3. The bytes that a rank hands to collectives in a step of each method, and what they take on many
   GPUs by ``benchmarks.network``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.method_traffic import GOAL, METHODS, print_bytes
from benchmarks.network import Network
from benchmarks.ranks import call_on_ranks
from benchmarks.timing import machine, pin_allocator

ROWS, SHAPE = 128, (3, 32, 32)
EPOCH = 50_000
"""Images of an epoch, of which the share of checkpoints is said."""
PARTS = ("throughput", "bytes")


@dataclass
class Run:
    """What a run of the classifier took, in seconds."""

    step: float
    checkpoint: float
    checkpoint_bytes: int


def train(joined: bool, steps: int) -> Run:
    """Train on this rank, which has its own core; the first step is not timed.

    Args:
        joined: Whether all ranks train one network, rather than each its own.
        steps: Number of steps.
    """
    import torch
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.utilities import rank_zero_only

    from framework.data.datamodule import DataModule
    from framework.data.datasets import ArrayDataset
    from framework.runs.checkpoint_io import use_atomic_checkpoints
    from modules import Classifier

    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    ranks = int(os.environ["WORLD_SIZE"]) if joined else 1
    if not joined:
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
        for name in ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
            del os.environ[name]

    class Images(DataModule):
        num_classes = 10

        def __init__(self) -> None:
            super().__init__(batch_size=ROWS * ranks)
            generator = torch.Generator().manual_seed(0)
            rows = ROWS * ranks * steps
            self.train_set = ArrayDataset(
                image=torch.randn(rows, *SHAPE, generator=generator),
                label=torch.randint(10, (rows,), generator=generator),
            )

    class Clock(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 1:
                self.start = time.perf_counter()
            self.end = time.perf_counter()

        def on_train_end(self, trainer: Any, *_: Any) -> None:
            path, times = Path(trainer.default_root_dir) / "last.ckpt", []
            for _ in range(3):
                start = time.perf_counter()
                trainer.save_checkpoint(path)
                times.append(time.perf_counter() - start)
            self.checkpoint = median(times)
            self.size = path.stat().st_size if trainer.is_global_zero else 0

    clock = Clock()
    module = Classifier(
        num_classes=10,
        input_shape=SHAPE,
        backbone="resnet18",
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy="ddp" if ranks > 1 else "auto",
            max_steps=steps,
            use_distributed_sampler=False,
            default_root_dir=folder,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        use_atomic_checkpoints(trainer)
        trainer.fit(module, datamodule=Images())
    return Run((clock.end - clock.start) / (steps - 1), clock.checkpoint, clock.size)


def print_throughput(rounds: int, steps: int) -> None:
    """Run the arms in turns and print their medians and the goal."""
    arms = {"one rank": (1, False), "two runs apart": (2, False), "two ranks": (2, True)}
    runs: dict[str, list[list[Run]]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, (ranks, joined) in arms.items():
            runs[name].append(call_on_ranks(ranks, train, joined, steps))
    print(f"\n## Throughput of a ResNet-18, {ROWS} images per rank and step\n")
    print("| | images per second | efficiency |\n| --- | --- | --- |")
    rates = {
        name: median(sum(ROWS / run.step for run in together) for together in several)
        for name, several in runs.items()
    }
    for name, rate in rates.items():
        own = rate / rates["one rank"] / (1 if name == "one rank" else 2)
        print(f"| {name} | {rate:.1f} | {own:.3f} |")
    efficiency = rates["two ranks"] / (2 * rates["one rank"])
    verdict = "met" if efficiency >= GOAL else "MISSED"
    print(f"\nGoal: at least {GOAL} of twice one rank: {verdict} ({efficiency:.3f}).")
    print(
        f"Of two runs apart on the same cores: {rates['two ranks'] / rates['two runs apart']:.3f}."
    )
    print("\n## Checkpoints\n")
    print(f"| | MB | seconds | share of a run, one per {EPOCH:,} images |")
    print("| --- | --- | --- | --- |")
    for name, ranks in (("one rank", 1), ("two ranks", 2)):
        several = [run for together in runs[name] for run in together]
        seconds = median(run.checkpoint for run in several)
        epoch = EPOCH / (ROWS * ranks) * median(run.step for run in several)
        size = max(run.checkpoint_bytes for run in several) / 1e6
        print(f"| {name} | {size:.1f} | {seconds:.3f} | {seconds / (seconds + epoch):.3%} |")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput")
    parser.add_argument("--steps", type=int, default=8, help="of a run in it")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--methods", nargs="+", help="beginnings of names; default all")
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 256])
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--within", type=float, default=450.0, help="GB/s of a link in a node")
    parser.add_argument("--between", type=float, default=50.0, help="GB/s of a link to others")
    parser.add_argument("--hop", type=float, default=5.0, help="microseconds of a small message")
    given = parser.parse_args()
    names = [n for n in METHODS if not given.methods or n.startswith(tuple(given.methods))]
    network = Network(given.gpus_per_node, given.within * 1e9, given.between * 1e9, given.hop / 1e6)
    print(f"{machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    if "throughput" in given.only:
        print_throughput(given.rounds, given.steps)
    if "bytes" in given.only:
        print_bytes(names, network, given.gpus)


if __name__ == "__main__":
    pin_allocator()
    main()

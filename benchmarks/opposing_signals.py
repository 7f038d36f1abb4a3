"""What looking for opposing signals costs, and what it finds.

    python -m benchmarks.opposing_signals [--device cuda] [--rounds 7]
    python -m benchmarks.opposing_signals --table [--data FOLDER] [--seeds 3]

The first trains a ResNet-18 at 32 x 32 and batch 128, and a perceptron, with and without
``OpposingSignals`` as it is by default; fits that are as long as its schedule take turns with those
without it. Goal: at most 1.03 of the time without. The second prints the tables of
docs/opposing_signals.md, on MNIST.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import machine, pin_allocator, print_ratios, synchronize

GOAL = 1.03
ROWS, BATCH, COST = 10_000, 128, 0.02
BRIGHT = (5.0, 4.0, 1.0)
"""Values of the planted strip; those of the digits are in [0, 1]."""


def make_arm(
    backbone: str, shape: tuple[int, ...], device: str, watched: bool
) -> Callable[[], float]:
    """Return a function that fits, and returns the seconds from one row of looks to the next."""
    import torch
    from lightning.pytorch import Callback, Trainer

    from callbacks import OpposingSignals
    from framework.data.datamodule import DataModule
    from framework.data.datasets import ArrayDataset
    from modules import Classifier

    class Images(DataModule):
        num_classes = 10

        def __init__(self) -> None:
            super().__init__(batch_size=BATCH)
            generator = torch.Generator().manual_seed(0)
            self.train_set = ArrayDataset(
                image=torch.randn(ROWS, *shape, generator=generator),
                label=torch.randint(10, (ROWS,), generator=generator),
            )

    class Clock(Callback):
        """Times from the end of the first step on, after which everything is set up."""

        start = seconds = 0.0

        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step in (1, trainer.max_steps):
                synchronize()
                now = time.perf_counter()
                self.start = now if trainer.global_step == 1 else self.start
                self.seconds = now - self.start

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return fit(folder)

    def fit(folder: str) -> float:
        torch.manual_seed(0)
        signals, clock = OpposingSignals(), Clock()
        # three looks lie between: after steps 2 and 3, and in the next row
        stretch = round(signals.probe_size / (COST * BATCH))
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            max_steps=1 + stretch,
            callbacks=[signals, clock] if watched else [clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(10, shape, backbone), Images())
        return clock.seconds

    return run


def overhead(device: str, rounds: int) -> None:
    """Print the ratios of both networks."""
    for backbone, shape in (("resnet18", (3, 32, 32)), ("mlp", (1, 28, 28))):
        arms = {
            "without": make_arm(backbone, shape, device, watched=False),
            "OpposingSignals": make_arm(backbone, shape, device, watched=True),
        }
        times: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, run in arms.items():
                times[name].append(run())
        medians = {name: statistics.median(values) for name, values in times.items()}
        print_ratios(f"{backbone}, batch {BATCH}", medians, "without", {"OpposingSignals": GOAL})


def tracker_table(folder: Path, seeds: int, bright: float) -> None:
    """Print what the tracker finds on planted digits, in parts of 50 steps.

    Args:
        folder: Folder of MNIST's files.
        seeds: Number of seeds.
        bright: Value of the strip that is planted.
    """
    from benchmarks.opposing_planted import descend, mnist_digits

    print(f"\nstrip of value {bright:g}")
    runs = [descend(*mnist_digits(folder, s, bright), s, cosine=True) for s in range(seeds)]
    names = ("up", "down", "overlap", "cosine", "rose")
    print(f"\n| steps | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}")
    for start in range(0, 300, 50):
        cells = []
        for name in names:
            parts = [getattr(run, name)[start : start + 50] for run in runs]
            # there is no overlap in the first step
            means = [statistics.mean(v for v in part if v == v) for part in parts]
            cells.append(f"{statistics.mean(means):.2f} ({min(means):.2f} to {max(means):.2f})")
        print(f"| {start + 1} to {start + 50} | {' | '.join(cells)} |", flush=True)


def final_losses(folder: Path, make: Callable[[Any], Any], seed: int) -> tuple[float, float]:
    """Train a perceptron for five epochs.

    Returns:
        The mean training loss of the steps of the last epoch, and that of all rows after it.
    """
    import torch
    from torch import nn

    from datamodules.idx import read_idx

    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rows = torch.randperm(60_000, generator=generator)[:ROWS]
    images = torch.as_tensor(read_idx(folder / "train-images-idx3-ubyte", 3))[rows]
    labels = torch.as_tensor(read_idx(folder / "train-labels-idx1-ubyte", 1)).long()[rows]
    images = images.flatten(1).float() / 255
    hidden = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    network = nn.Sequential(*hidden, nn.Linear(128, 10))
    optimizer = make(network.parameters())
    total = 0.0
    for epoch in range(5):
        for part in torch.randperm(ROWS, generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[part]), labels[part])
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(part) if epoch == 4 else 0.0
    with torch.no_grad():
        last = nn.functional.cross_entropy(network(images), labels)
    return total / ROWS, float(last)


def optimizer_table(folder: Path, seeds: int) -> None:
    """Print how the loss of PartialSignSGD and of others depends on their learning rate."""
    from torch.optim import SGD, Adam

    from framework.optim import PartialSignSGD

    names = ("last epoch", "after the last step")
    print(f"\n| optimizer | lr | {' | '.join(names)} |\n| --- | --- | --- | --- |")
    arms: list[tuple[str, tuple[float, ...], Callable[[Any, float], Any]]] = [
        ("PartialSignSGD", (1e-4, 1e-2, 1.0, 100.0), lambda p, lr: PartialSignSGD(p, lr=lr)),
        ("Adam", (1e-3,), lambda p, lr: Adam(p, lr=lr)),
        ("SGD", (1e-2, 1.0), lambda p, lr: SGD(p, lr=lr, momentum=0.9, dampening=0.9)),
    ]
    for name, rates, make in arms:
        means: list[list[float]] = []
        for lr in rates:
            runs = [final_losses(folder, lambda p: make(p, lr), s) for s in range(seeds)]  # noqa: B023
            columns = [*zip(*runs, strict=True)]
            means.append([statistics.mean(losses) for losses in columns])
            deviations = [statistics.stdev(v) if seeds > 1 else 0.0 for v in columns]
            cells = [f"{m:.4f} ± {d:.4f}" for m, d in zip(means[-1], deviations, strict=True)]
            print(f"| {name} | {lr:g} | {' | '.join(cells)} |", flush=True)
        if len(rates) > 1:
            spreads = [f"{max(v) / min(v) - 1:.0%}" for v in zip(*means, strict=True)]
            print(f"| {name} | spread | {' | '.join(spreads)} |", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--table", action="store_true", help="print the tables instead")
    parser.add_argument("--data", default=os.environ.get("TRIMTAB_DATA"), help="folder of the sets")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(machine(arguments.device))
    if not arguments.table:
        overhead(arguments.device, arguments.rounds)
        return
    if arguments.data is None:
        parser.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    folder = Path(arguments.data) / "mnist" / "MNIST" / "raw"
    for bright in BRIGHT:
        tracker_table(folder, arguments.seeds, bright)
    optimizer_table(folder, arguments.seeds)


if __name__ == "__main__":
    pin_allocator()
    main()

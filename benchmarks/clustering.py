"""What DEPICT's phases, its targets and its first clusters cost.

    python -m benchmarks.clustering [--device cuda] [--rounds 7]

Epochs of the network for MNIST (50 and 50 channels, Adam, batches of 100) on 1,000 random images,
all of it: the training steps of the framework, the targets, and the pass over all samples where
there is one. Goal: an epoch of the joint phase takes at most 1.35 of the auto-encoder's. Then the
targets of 70,000 samples in 10 clusters, and AC-PIC on 2,000 and 10,000 points of a mixture of
ten Gaussians in ten dimensions, beside k-means with 40 starts.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable
from typing import Any

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

SAMPLES, BATCH, CLUSTERS = 1_000, 100, 10
GOALS = {"joint, running refresh": 1.35, "joint, full refresh": 1.35}


def make_epoch(device: str, phase: str, refresh: str = "running") -> Callable[[], None]:
    """Return a function that trains a network of its own for one epoch of a phase."""
    import torch
    from lightning.pytorch import Trainer

    from framework.data.datamodule import DataModule
    from framework.data.datasets import ArrayDataset
    from modules import DEPICT
    from modules.depict.phases import Phase

    class Images(DataModule):
        def __init__(self) -> None:
            super().__init__(BATCH, eval_batch_size=500)
            generator = torch.Generator().manual_seed(0)
            image = torch.rand(SAMPLES, 1, 28, 28, generator=generator) * 2 - 1
            self.train_set = ArrayDataset(image=image)

    torch.manual_seed(0)
    module: Any = DEPICT(refresh=refresh).to(device).train()
    trainer: Any = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = Images()
    # what the Trainer does before a fit's first step, so that arms can take turns
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer._data_connector.attach_data(module, datamodule=data)
    module.setup("fit")
    module.part = Phase(phase, max_epochs=1)
    optimizer = torch.optim.Adam(module.parameter_groups(), lr=1e-4)
    if phase == "joint":
        module._remember_all()
        module._update_targets()

    def epoch() -> None:
        for place, batch in enumerate(data.train_dataloader()):
            moved = {name: value.to(device) for name, value in batch.items()}

            def closure(batch: Any = moved, place: int = place) -> Any:
                optimizer.zero_grad()
                loss = module.training_step(batch, place)
                loss.backward()
                return loss

            module.optimizer_step(0, place, optimizer, closure)
        if phase == "joint":
            if refresh == "full":
                module._remember_all()
            module._update_targets()

    return epoch


def print_targets(device: str, rounds: int) -> None:
    """Print the time of each kind of target for 70,000 samples."""
    import torch

    from framework.clustering.target_distribution import dec_target_distribution

    p = torch.randn(70_000, CLUSTERS, device=device).softmax(1)
    arms: dict[str, Callable[[], object]] = {
        kind: lambda kind=kind: dec_target_distribution(p, kind)
        for kind in ("sqrt", "square", "exact")
    }
    medians = interleaved_medians(arms, rounds)
    print_ratios("targets of 70,000 samples in 10 clusters", medians, "sqrt")


def print_first_clusters(rounds: int) -> None:
    """Print the time of AC-PIC and of k-means, and how that of AC-PIC grows."""
    from sklearn.cluster import KMeans
    from sklearn.datasets import make_blobs

    from framework.solvers import AgglomerativePathIntegral

    seconds = {}
    for size in (2_000, 10_000):
        x, _ = make_blobs(size, 10, centers=CLUSTERS, cluster_std=3.0, random_state=0)
        arms: dict[str, Callable[[], object]] = {
            "k-means, 40 starts": lambda x=x: KMeans(CLUSTERS, n_init=40, random_state=0).fit(x),
            "AC-PIC": lambda x=x: AgglomerativePathIntegral(CLUSTERS).fit(x),
        }
        medians = interleaved_medians(arms, rounds, warmup=0)
        print_ratios(f"first clusters of {size:,} points", medians, "k-means, 40 starts")
        seconds[size] = medians["AC-PIC"]
    growth = math.log(seconds[10_000] / seconds[2_000]) / math.log(5)
    print(f"  AC-PIC grows as N to the power {growth:.2f}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    device = arguments.device
    arms = {
        "auto-encoder": make_epoch(device, "autoencoder"),
        "joint, running refresh": make_epoch(device, "joint"),
        "joint, full refresh": make_epoch(device, "joint", "full"),
    }
    medians = interleaved_medians(arms, arguments.rounds, warmup=1)
    print(machine(device))
    title = f"epoch of {SAMPLES:,} x 1 x 28 x 28, median of {arguments.rounds} rounds"
    print_ratios(title, medians, "auto-encoder", GOALS)
    print_targets(device, arguments.rounds)
    print_first_clusters(min(3, arguments.rounds))


if __name__ == "__main__":
    pin_allocator()
    main()

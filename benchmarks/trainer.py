"""What the Trainer and TrainingModule cost over a hand-written PyTorch loop.

    python -m benchmarks.trainer [--device cuda] [--rounds 9]

A ResNet-18 at 32 x 32 and batch 64 (goal: at most 1.02 of the loop), and a tiny perceptron, where
the microseconds per step count (goal: a bare Lightning Trainer and 150 more). Each arm runs whole
short fits; starting up is timed separately and taken off. All logging is on.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.timing import machine, pin_allocator

STEPS = {"resnet18": 12, "mlp": 400}
GOAL_RATIO = 1.02
GOAL_EXTRA = 150


def make_data(shape: tuple[int, ...], rows: int, batch_size: int) -> Any:
    import torch

    from framework.data.datamodule import DataModule
    from framework.data.datasets import ArrayDataset

    class RandomImages(DataModule):
        num_classes = 10

        def __init__(self) -> None:
            super().__init__(batch_size=batch_size)
            generator = torch.Generator().manual_seed(0)
            self.train_set = ArrayDataset(
                image=torch.randn(rows, *shape, generator=generator),
                label=torch.randint(10, (rows,), generator=generator),
            )

    return RandomImages()


def make_arms(name: str, device: str) -> dict[str, Callable[[int], float]]:
    """Return one function per arm: steps to train, to seconds per step without starting up."""
    import timm
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.nn import functional as F

    from framework.runs.csv_logger import RunLogger
    from modules import Classifier

    tiny = name == "mlp"
    shape, batch_size = ((1, 8, 8), 64) if tiny else ((3, 32, 32), 64)
    rows = batch_size * STEPS[name]

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        if tiny:
            return torch.nn.Sequential(
                torch.nn.Flatten(),
                torch.nn.Linear(64, 32),
                torch.nn.ReLU(),
                torch.nn.Linear(32, 10),
            )
        return timm.create_model("resnet18", num_classes=10)

    class Clock(Callback):
        """Times from the end of the first step on, when everything has been set up."""

        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step in (1, trainer.max_steps):
                if device == "cuda":
                    torch.cuda.synchronize()
                now = time.perf_counter()
                if trainer.global_step == 1:
                    self.start = now
                else:
                    self.seconds = (now - self.start) / (trainer.max_steps - 1)

    def trainer_arm(module: LightningModule, logger: Any, steps: int) -> float:
        clock = Clock()
        trainer = Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            max_steps=steps,
            logger=logger,
            callbacks=[clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
        trainer.fit(module, datamodule=make_data(shape, rows, batch_size))
        return clock.seconds

    def loop(steps: int) -> float:
        model = network().to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        batches = iter(make_data(shape, rows, batch_size).train_dataloader())
        start = 0.0
        for step in range(steps):
            batch = {k: v.to(device) for k, v in next(batches).items()}
            optimizer.zero_grad()
            F.cross_entropy(model(batch["image"]), batch["label"]).backward()
            optimizer.step()
            if step in (0, steps - 1) and device == "cuda":
                torch.cuda.synchronize()
            if step == 0:
                start = time.perf_counter()
        return (time.perf_counter() - start) / (steps - 1)

    class Bare(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.network(batch["image"]), batch["label"])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    def ours(steps: int) -> float:
        module = Classifier(
            num_classes=10,
            input_shape=shape,
            backbone="mlp" if tiny else "resnet18",
            widths=(32,),
            optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
        )
        with tempfile.TemporaryDirectory() as folder:
            return trainer_arm(module, RunLogger(folder), steps)

    return {
        "hand-written loop": loop,
        "bare Lightning Trainer": lambda steps: trainer_arm(Bare(), False, steps),
        "Trainer + TrainingModule": ours,
    }


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(machine(arguments.device))
    for name, steps in STEPS.items():
        arms = make_arms(name, arguments.device)
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(arguments.rounds):
            for arm, run in arms.items():
                times[arm].append(run(steps))
        medians = {arm: statistics.median(values) for arm, values in times.items()}
        base = medians["hand-written loop"]
        print(f"\n{name}, {steps} steps, median of {arguments.rounds} interleaved runs")
        for arm, seconds in medians.items():
            extra = (seconds - base) * 1e6
            print(
                f"  {arm:28s} {seconds * 1e3:9.3f} ms/step  {seconds / base:6.3f}  +{extra:.0f} us"
            )
        ours = medians["Trainer + TrainingModule"]
        if name == "resnet18":
            verdict = "met" if ours / base <= GOAL_RATIO else "MISSED"
            print(f"  goal: at most {GOAL_RATIO} of the loop: {verdict} ({ours / base:.3f})")
        else:
            over = (ours - medians["bare Lightning Trainer"]) * 1e6
            verdict = "met" if over <= GOAL_EXTRA else "MISSED"
            print(f"  goal: bare Trainer + {GOAL_EXTRA} us: {verdict} (+{over:.0f} us)")


if __name__ == "__main__":
    pin_allocator()
    main()

"""What SAF and MESA cost per step, beside a two-pass SAM step.

    python -m benchmarks.saf [--device cuda] [--rounds 15]

A ResNet-18 at CIFAR's size (32 x 32, 10 classes, 50,000 samples) and batch 128, SGD with momentum.
Goals: SAF at most 1.03 of the plain step, MESA at most 1.35; SAM takes about 2. Every arm is the
same ``TrainingModule.training_step``, backward pass and optimizer step with terms active; the arms
take turns step by step.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

SAMPLES, CLASSES, BATCH, EPOCH, RHO = 50_000, 10, 128, 8, 0.05
GOALS = {"SAF": 1.03, "MESA": 1.35}


def make_step(device: str, callback: Any = None, sam: bool = False) -> Callable[[], None]:
    """Return a function that takes one training step of a network of its own."""
    import torch
    from lightning.pytorch import Trainer

    from callbacks import SAF
    from framework.data.datamodule import DataModule
    from framework.data.datasets import ArrayDataset
    from modules import Classifier

    class Images(DataModule):
        num_classes = CLASSES

        def __init__(self) -> None:
            super().__init__(batch_size=BATCH)
            self.train_set = ArrayDataset(label=torch.zeros(SAMPLES, dtype=torch.int64))

    torch.manual_seed(0)
    module = Classifier(CLASSES, (3, 32, 32), "resnet18").to(device).train()
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        callbacks=[callback] if callback is not None else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # what the Trainer does before a fit's first step, so that arms can take turns step by step
    trainer.strategy.connect(module)
    trainer.datamodule = Images()  # type: ignore[attr-defined]
    module.trainer = trainer
    trainer.fit_loop.epoch_progress.current.completed = EPOCH
    steps = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    if callback is not None:
        callback.setup(trainer, module, "fit")
        callback.on_fit_start(trainer, module)
        callback.on_train_start(trainer, module)
    if isinstance(callback, SAF):
        remember(callback)
    optimizer = torch.optim.SGD(module.parameter_groups(), lr=0.01, momentum=0.9)
    parameters: list[torch.Tensor] = list(module.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(BATCH, 3, 32, 32, generator=generator).to(device)
    label = torch.randint(CLASSES, (BATCH,), generator=generator).to(device)

    def step() -> None:
        index = torch.randint(SAMPLES, (BATCH,), generator=generator).to(device)
        batch = {"image": image, "label": label, "index": index}
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        if sam:
            gradients = [p.grad for p in parameters if p.grad is not None]
            scale = float(RHO / torch.nn.utils.get_total_norm(gradients))
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=scale)
            optimizer.zero_grad()
            module.training_step(batch, 0).backward()
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-scale)
        optimizer.step()
        steps.increment_completed()
        if callback is not None:
            callback.on_train_batch_end(trainer, module, None, batch, 0)
            assert type(callback).__name__.lower() in module.term_values

    return step


def remember(saf: Any) -> None:
    """Give SAF a past of every sample."""
    import torch

    past = EPOCH - saf.lag_epochs
    slot = past % len(saf.history)
    saf.history[slot].write(torch.arange(SAMPLES), torch.randn(SAMPLES, CLASSES))
    saf.written[slot].fill_(past)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    from callbacks import MESA, SAF

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    device = arguments.device
    arms = {
        "plain": make_step(device),
        "SAF": make_step(device, SAF()),
        "MESA": make_step(device, MESA()),
        "SAM": make_step(device, sam=True),
    }
    medians = interleaved_medians(arms, arguments.rounds)
    print(machine(device))
    title = f"ResNet-18, {BATCH} x 3 x 32 x 32, median step of {arguments.rounds} rounds"
    print_ratios(title, medians, "plain", GOALS)


if __name__ == "__main__":
    pin_allocator()
    main()

"""One self-tuning run against a grid of fixed dropout rates, on digits with wrong labels.

    python -m benchmarks.selftuning_digits [--seeds 3] [--steps 1500]

200 training images of scikit-learn's digits, of whose labels 20 % are random, 250 to tune on, the
others to test. A perceptron 64-256-256-10 has dropout on its input and on its first hidden layer;
the step with the least tuning loss counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.self_tuning import HyperParameter, SelfTuner, TunedDropout
from framework.utilities.evaluation_mode import evaluation_mode

GRID = (0.05, 0.3, 0.5, 0.7)
STARTS = (0.05, 0.5)
BATCH = 64
EVERY = 10
"""Training steps between two looks at the tuning loss."""


@dataclass
class Part:
    """Images (N, 64) and their labels (N,)."""

    image: Tensor
    label: Tensor


@dataclass
class Outcome:
    """What the best step of a run came to, and where its rates ended."""

    tuning_loss: float
    test_loss: float
    accuracy: float
    rates: list[float]
    scales: list[float]
    seconds: float


def digits(seed: int) -> tuple[Part, Part, Part]:
    """Return the parts to train, to tune and to test on."""
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(label), generator=generator)
    image = torch.from_numpy(pixels)[order].float() / 16
    label = torch.from_numpy(label).long()[order]
    noisy = label[:200].clone()
    wrong = torch.rand(200, generator=generator) < 0.2
    noisy[wrong] = torch.randint(10, (int(wrong.sum()),), generator=generator)
    return (
        Part(image[:200], noisy),
        Part(image[200:450], label[200:450]),
        Part(image[450:], label[450:]),
    )


def run(seed: int, rate: float, tuned: bool, steps: int = 1500) -> Outcome:
    """Train once, with fixed rates or with rates that are tuned from there.

    Args:
        seed: Seed of the data, the weights and the batches.
        rate: Both dropout rates, or where they start.
        tuned: Whether they are tuned.
        steps: Number of training steps.
    """
    train, tuning, test = digits(seed)
    torch.manual_seed(seed)
    network = nn.Sequential(
        *(nn.Dropout(rate), nn.Linear(64, 256), nn.ReLU()),
        *(nn.Dropout(rate), nn.Linear(256, 256), nn.ReLU()),
        nn.Linear(256, 10),
    )
    tuner = None
    if tuned:
        start = HyperParameter(rate)
        effects = [TunedDropout("0", "input", start), TunedDropout("3", "hidden", start)]
        tuner = SelfTuner(
            network, effects, warmup_steps=100, hyper_lr=9e-3, scale_lr=9e-3, seed=seed
        )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, float, float] | None = None
    began = time.perf_counter()
    for step in range(steps):
        rows = torch.randint(len(train.label), (BATCH,), generator=generator)
        with nullcontext() if tuner is None else tuner.training(BATCH, step):
            loss = F.cross_entropy(network(train.image[rows]), train.label[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if tuner is not None and tuner.is_due(step + 1):
            rows = torch.randint(len(tuning.label), (BATCH,), generator=generator)
            image, label = tuning.image[rows], tuning.label[rows]
            tuner.tune(lambda: F.cross_entropy(network(image), label), BATCH)  # noqa: B023
        if (step + 1) % EVERY == 0:
            found = measured(network, tuning, test)
            best = found if best is None else min(best, found)
    assert best is not None
    rates = [rate, rate] if tuner is None else list(tuner.values().values())
    scales = [] if tuner is None else list(tuner.scales().values())
    return Outcome(*best, rates, scales, time.perf_counter() - began)


@torch.no_grad()
def measured(network: nn.Module, tuning: Part, test: Part) -> tuple[float, float, float]:
    """Return the tuning loss, the test loss and the test accuracy."""
    with evaluation_mode(network):
        logits = network(test.image)
        tuning_loss = F.cross_entropy(network(tuning.image), tuning.label)
    accuracy = (logits.argmax(1) == test.label).float().mean()
    return float(tuning_loss), float(F.cross_entropy(logits, test.label)), float(accuracy)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of a run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{given.steps} steps, means of {given.seeds} seeds\n")
    print(
        "| dropout rates | tuning loss | test loss | test accuracy | rates at the end | seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    losses: dict[tuple[float, bool], float] = {}
    for rate, tuned in [*((r, False) for r in GRID), *((r, True) for r in STARTS)]:
        runs = [run(seed, rate, tuned, given.steps) for seed in range(given.seeds)]
        columns = [(r.tuning_loss, r.test_loss, r.accuracy, *r.rates, r.seconds) for r in runs]
        loss, test, accuracy, first, second, seconds = map(
            statistics.fmean, zip(*columns, strict=True)
        )
        losses[rate, tuned] = loss
        name = f"self-tuning, from {rate}" if tuned else f"fixed {rate}"
        print(
            f"| {name} | {loss:.4f} | {test:.4f} | {accuracy:.3f} | {first:.2f}, {second:.2f} | "
            f"{seconds:.1f} |",
            flush=True,
        )
    best = min(losses[rate, False] for rate in GRID)
    for rate in STARTS:
        ratio = losses[rate, True] / best
        said = "met" if ratio <= 1.1 else "missed"
        print(f"\nfrom {rate}: {ratio:.3f} of the best fixed tuning loss (goal 1.1: {said})")


if __name__ == "__main__":
    main()

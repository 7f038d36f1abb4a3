"""One self-tuning run against fixed dropout rates, and against trials that search for them.

    python -m benchmarks.selftuning_digits [--only grid search] [--seeds 3] [--steps 1500]

200 training images of scikit-learn's digits, of whose labels 20 % are random, 250 to tune on, the
others to test. A perceptron 64-256-256-10 has dropout on its input and on its first hidden layer;
the step with the least tuning loss counts. Grid: both rates fixed at the same value. Search: 25
trials with rates that the samplers of ``trimtab tune`` propose, each of as many steps as a run, and
all together of as many.
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
LIMIT = 1.1
"""Largest tuning loss that a self-tuning run may end with, of that of the best fixed rates."""
SAMPLERS = ("random", "tpe", "gp")
TRIALS = 25
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


def run(seed: int, rates: tuple[float, float], tuned: bool, steps: int = 1500) -> Outcome:
    """Train once, with fixed rates or with rates that are tuned from there.

    Args:
        seed: Seed of the data, the weights and the batches.
        rates: Dropout rates of the input and of the hidden layer, or where they start.
        tuned: Whether they are tuned.
        steps: Number of training steps.
    """
    train, tuning, test = digits(seed)
    torch.manual_seed(seed)
    network = nn.Sequential(
        *(nn.Dropout(rates[0]), nn.Linear(64, 256), nn.ReLU()),
        *(nn.Dropout(rates[1]), nn.Linear(256, 256), nn.ReLU()),
        nn.Linear(256, 10),
    )
    tuner = None
    if tuned:
        effects = [
            TunedDropout(layer, name, HyperParameter(rate))
            for layer, name, rate in zip(("0", "3"), ("input", "hidden"), rates, strict=True)
        ]
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
    ends = [*rates] if tuner is None else list(tuner.values().values())
    scales = [] if tuner is None else list(tuner.scales().values())
    return Outcome(*best, ends, scales, time.perf_counter() - began)


@torch.no_grad()
def measured(network: nn.Module, tuning: Part, test: Part) -> tuple[float, float, float]:
    """Return the tuning loss, the test loss and the test accuracy."""
    with evaluation_mode(network):
        logits = network(test.image)
        tuning_loss = F.cross_entropy(network(tuning.image), tuning.label)
    accuracy = (logits.argmax(1) == test.label).float().mean()
    return float(tuning_loss), float(F.cross_entropy(logits, test.label)), float(accuracy)


def print_grid(seeds: int, steps: int) -> None:
    """Print self-tuning runs from two starts beside fixed rates."""
    print(f"\n{steps} steps, means of {seeds} seeds\n")
    print(
        "| dropout rates | tuning loss | test loss | test accuracy | rates at the end | seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    losses: dict[tuple[float, bool], float] = {}
    for rate, tuned in [*((r, False) for r in GRID), *((r, True) for r in STARTS)]:
        runs = [run(seed, (rate, rate), tuned, steps) for seed in range(seeds)]
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
        said = "met" if ratio <= LIMIT else "missed"
        print(f"\nfrom {rate}: {ratio:.3f} of the best fixed tuning loss (goal {LIMIT}: {said})")


def search(sampler: str, seed: int, trials: int, steps: int) -> tuple[float, float]:
    """Return the least tuning loss of trials with fixed rates, and how long they took."""
    import optuna

    from framework.tuning import make_sampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, began = optuna.create_study(), time.perf_counter()
    for number in range(trials):
        study.sampler = make_sampler(sampler, seed, number)
        trial = study.ask()
        first, second = (trial.suggest_float(name, 0.0, 0.9) for name in ("input", "hidden"))
        study.tell(trial, run(seed, (first, second), tuned=False, steps=steps).tuning_loss)
    return study.best_value, time.perf_counter() - began


def print_search(seeds: int, steps: int) -> None:
    """Print one self-tuning run beside searches of 25 trials, each as long, or all together."""
    print(f"\nOne run of {steps} steps beside searches, medians of {seeds} seeds\n")
    print("| | tuning loss | seconds | times a run |")
    print("| --- | --- | --- | --- |")
    base = 0.0
    for sampler in (None, *SAMPLERS):
        for part in (1,) if sampler is None else (1, TRIALS):
            if sampler is None:
                name = "self-tuning, from 0.05"
                runs = [run(seed, (0.05, 0.05), tuned=True, steps=steps) for seed in range(seeds)]
                pairs = [(one.tuning_loss, one.seconds) for one in runs]
            else:
                name = f"{TRIALS} trials of {steps // part} steps, {sampler}"
                pairs = [search(sampler, seed, TRIALS, steps // part) for seed in range(seeds)]
            loss, seconds = map(statistics.median, zip(*pairs, strict=True))
            base = base or seconds
            print(f"| {name} | {loss:.4f} | {seconds:.1f} | {seconds / base:.1f} |", flush=True)


SECTIONS = {"grid": print_grid, "search": print_search}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of a run")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only:
        SECTIONS[name](given.seeds, given.steps)


if __name__ == "__main__":
    main()

"""Best validation loss of a small net on digits after 25 trials, by sampler.

    python -m benchmarks.tuning --seeds 5 --samplers random tpe gp

Every trial draws a learning rate and a weight decay and takes 100 steps. The table has the median
and the range over the seeds of a study, and the seconds that a proposal takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import optuna
import torch
from optuna.distributions import FloatDistribution
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.timing import machine
from framework.tuning.samplers import SAMPLERS, make_sampler

SPACE = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "weight_decay": FloatDistribution(1e-5, 1.0, log=True),
}


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 500 training images and labels, and 500 of validation."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(found.data).float()[order] / 16
    y = torch.from_numpy(found.target)[order]
    return x[:500], y[:500], x[500:1000], y[500:1000]


def validation_loss(
    data: Sequence[Tensor], lr: float, weight_decay: float, seed: int, steps: int = 100
) -> float:
    """Train a perceptron with 32 hidden units and return its cross-entropy on validation data."""
    x, y, val_x, val_y = data
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        rows = torch.randint(len(x), (32,), generator=generator)
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(net(val_x), val_y).item()


def best_loss(
    data: Sequence[Tensor], sampler: str, seed: int, trials: int = 25
) -> tuple[float, float]:
    """Return the best validation loss of a study, and the seconds that a proposal took."""
    study = optuna.create_study()
    seconds = 0.0
    for number in range(trials):
        start = time.perf_counter()
        study.sampler = make_sampler(sampler, seed, number)
        trial = study.ask(SPACE)
        seconds += time.perf_counter() - start
        # a run of the command is seeded by the number of its trial, too
        study.tell(trial, validation_loss(data, seed=1000 * seed + number, **trial.params))
    return study.best_value, seconds / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of studies, from seed 0")
    parser.add_argument("--trials", type=int, default=25, help="trials of a study")
    names = [name for name in SAMPLERS if name != "mf_kg"]
    parser.add_argument("--samplers", nargs="+", default=names, choices=names)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = digits()
    print(f"{machine()}: best validation loss after {args.trials} trials, {args.seeds} seeds\n")
    print("| sampler | median | range | seconds per proposal |\n| --- | --- | --- | --- |")
    for name in args.samplers:
        runs = [best_loss(data, name, seed, args.trials) for seed in range(args.seeds)]
        losses, seconds = zip(*runs, strict=True)
        print(
            f"| {name} | {statistics.median(losses):.4f} | {min(losses):.4f} to "
            f"{max(losses):.4f} | {statistics.median(seconds):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

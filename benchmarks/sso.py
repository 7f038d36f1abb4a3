"""What SSO's further steps on the surrogate are worth, in gradients of the loss and in seconds.

    python -m benchmarks.sso [--seeds 2] [--part convex|delay|adversarial]

``convex``: logistic regression on the breast-cancer table, the training loss after 100 gradients.
``delay``: gradients and seconds to a training loss where every gradient of the loss takes a while.
``adversarial``: robust accuracy of perceptrons on digits at equal numbers of attacks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.experiment import mean_and_sd, parser, run_arm
from framework.optim import SSO, TargetClosure

ETAS, INNER_STEPS = (0.1, 1.0, 4.0), (1, 5, 20, 100)
REFERENCE = {
    1: (0.2821, 0.1129, 0.0761),
    5: (0.2460, 0.0950, 0.0648),
    20: (0.2279, 0.0884, 0.0606),
    100: (0.2169, 0.0838, 0.0589),
}
ROWS, STEPS, GOAL = 100, 100, 0.055
Optimizers = Callable[[list[Tensor]], torch.optim.Optimizer]


class Logistic:
    """Logistic regression on the breast-cancer table, z-scored, in batches without replacement."""

    def __init__(self, seed: int) -> None:
        from sklearn.datasets import load_breast_cancer

        table, classes = load_breast_cancer(return_X_y=True)
        x = torch.tensor((table - table.mean(0)) / table.std(0))
        self.x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        self.y = torch.tensor(classes * 2.0 - 1)
        self.weight = torch.nn.Parameter(self.x.new_zeros(31))
        self._generator = torch.Generator().manual_seed(seed)

    def loss(self) -> float:
        """Return the training loss."""
        return float(F.softplus(-self.y * (self.x @ self.weight.detach())).mean())

    def steps(self, delay: float = 0.0) -> Iterator[tuple[TargetClosure, Tensor]]:
        """Yield the closure of a batch, whose loss takes ``delay`` seconds, and its inputs."""
        while True:
            rows = torch.randperm(len(self.y), generator=self._generator)[:ROWS]
            x, y = self.x[rows], self.y[rows]

            def outputs(x: Tensor = x) -> Tensor:
                return x @ self.weight

            def loss(z: Tensor, y: Tensor = y) -> Tensor:
                time.sleep(delay)
                return F.softplus(-y * z).mean()

            yield TargetClosure([self.weight], outputs, loss), x


def loss_after(eta: float, inner_steps: int, seed: int, steps: int = STEPS) -> float:
    """Return the training loss after some steps of SSO, with the specification's inner step."""
    problem = Logistic(seed)
    optimizer = SSO([problem.weight], eta, inner_steps=inner_steps, tolerance=0.0)
    for _, (closure, x) in zip(range(steps), problem.steps(), strict=False):
        largest = float(torch.linalg.matrix_norm(x, 2))
        optimizer.param_groups[0]["lr"] = eta * ROWS / largest**2
        optimizer.step(closure)
    return problem.loss()


def print_convex(seeds: int) -> None:
    """Print the loss by inner steps and eta."""
    print(f"\nTraining loss after {STEPS} gradients of the loss; mean of {seeds} seeds\n")
    print("| inner steps | " + " | ".join(f"eta {eta:g}" for eta in ETAS) + " | reference |")
    print("| --- |" + " --- |" * (len(ETAS) + 1))
    for m in INNER_STEPS:
        means = [statistics.mean(loss_after(eta, m, s) for s in range(seeds)) for eta in ETAS]
        cells = [f"{mean:.4f}" for mean in means]
        print(
            "| " + " | ".join([str(m), *cells, " / ".join(f"{x:.4f}" for x in REFERENCE[m])]) + " |"
        )


def cost(make: Optimizers, delay: float, seed: int, limit: int = 300) -> tuple[float, float]:
    """Return gradients of the loss and seconds until the training loss is below ``GOAL``."""
    problem = Logistic(seed)
    optimizer, seconds = make([problem.weight]), 0.0
    for step, (closure, _) in zip(range(1, limit + 1), problem.steps(delay), strict=False):
        begin = time.perf_counter()
        optimizer.step(closure)  # type: ignore[arg-type]
        seconds += time.perf_counter() - begin
        if problem.loss() < GOAL:
            return step, seconds
    return float("nan"), seconds


def with_options(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> Optimizers:
    """Return the function from parameters to an optimizer."""
    return lambda parameters: kind(parameters, **options)


DELAY_ARMS: dict[str, list[Optimizers]] = {
    "SGD": [with_options(torch.optim.SGD, lr=lr) for lr in (1.0, 3.0, 10.0)],
    "SGD, momentum 0.9": [
        with_options(torch.optim.SGD, lr=lr, momentum=0.9) for lr in (0.1, 0.3, 1.0)
    ],
    "Adam": [with_options(torch.optim.Adam, lr=lr) for lr in (0.03, 0.1, 0.3)],
    "SSO, 10 steps of gd": [
        with_options(SSO, target_lr=eta, lr=eta * 0.06, inner_steps=10)
        for eta in (16.0, 64.0, 128.0)
    ],
    "SSO, 10 steps of armijo": [
        with_options(
            SSO,
            target_lr=eta,
            lr=10.0,
            inner="armijo",
            inner_steps=10,
            inner_kwargs={"backtracking": 0.5},
        )
        for eta in (16.0, 64.0, 128.0)
    ],
    "SSO, 20 steps of lbfgs": [
        with_options(SSO, target_lr=eta, lr=1.0, inner="lbfgs", inner_steps=20)
        for eta in (16.0, 64.0, 128.0)
    ],
}
"""By name, an optimizer with each of the learning rates that it is tried with."""


def print_delay(seeds: int, delays: Sequence[float] = (0.0, 0.005, 0.05)) -> None:
    """Print gradients and seconds to the goal, at each optimizer's best learning rate."""
    print(f"\nTo a training loss of {GOAL}: gradients of the loss, and seconds by their delay\n")
    print("| | gradients | " + " | ".join(f"{delay * 1000:g} ms" for delay in delays) + " |")
    print("| --- | --- |" + " --- |" * len(delays))
    for name, candidates in DELAY_ARMS.items():
        counts = [
            statistics.mean(cost(make, 0.0, seed)[0] for seed in range(seeds))
            for make in candidates
        ]
        reached = [(count, i) for i, count in enumerate(counts) if count == count]
        if not reached:
            print(f"| {name} | not reached |" + "  |" * len(delays))
            continue
        best = candidates[min(reached)[1]]
        found = [
            statistics.mean(cost(best, delay, seed)[1] for seed in range(seeds)) for delay in delays
        ]
        cells = [f"{min(reached)[0]:.1f}", *(f"{seconds:.3f}" for seconds in found)]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


ATTACKED = ["--config=configs/adversarial.yaml", "--trainer.max_epochs=5"]
ADVERSARIAL_ARMS: dict[str, list[str]] = {
    "SSO, 10 steps of Adam (`sso`)": ["--config=configs/sso.yaml"],
    "SSO, 5 steps of Adam": ["--config=configs/sso.yaml", "--model.optimizer.inner_steps=5"],
    "AdamW 0.003 (`adversarial`)": ATTACKED,
    "AdamW 0.01": [*ATTACKED, "--model.optimizer.lr=0.01"],
    "AdamW 0.03": [*ATTACKED, "--model.optimizer.lr=0.03"],
    "SGD 0.1, momentum 0.9": [
        *ATTACKED,
        "--model.optimizer=SGD",
        "--model.optimizer.lr=0.1",
        "--model.optimizer.momentum=0.9",
    ],
    "AdamW 0.01, 20 epochs": [*ATTACKED, "--model.optimizer.lr=0.01", "--trainer.max_epochs=20"],
}
"""By name, arguments of ``fit``; five epochs are 115 attacks."""


def print_adversarial(seeds: int) -> None:
    """Print robust accuracy, accuracy and the seconds of one core that a run takes."""
    metrics = ("val/robust_accuracy", "val/accuracy")
    print("\n| | " + " | ".join(metrics) + " | seconds |\n| --- | --- | --- | --- |", flush=True)
    for name, arguments in ADVERSARIAL_ARMS.items():
        values, seconds = [], []
        for seed in range(seeds):
            begin = time.process_time()
            values.append(run_arm(arguments, seed, metrics))
            seconds.append(time.process_time() - begin)
        cells = [mean_and_sd(column) for column in zip(*values, strict=True)]
        # the first run of a process imports what the others find imported
        print("| " + " | ".join([name, *cells, f"{min(seconds):.1f}"]) + " |", flush=True)


PARTS: dict[str, Callable[[int], None]] = {
    "convex": print_convex,
    "delay": print_delay,
    "adversarial": print_adversarial,
}


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=2)
    command.add_argument("--part", choices=PARTS, help="the only part to run")
    arguments = command.parse_args()
    torch.set_num_threads(1)
    for part in [arguments.part] if arguments.part else PARTS:
        PARTS[part](arguments.seeds)


if __name__ == "__main__":
    main()

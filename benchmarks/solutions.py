"""What optimizers forget, and what their solutions are like at equal training loss.

    python -m benchmarks.solutions [--seeds 5] [--part incremental|equal]

Both are of scikit-learn's digits and a perceptron 64-128-10, in plain loops on the kernels that
``ClassIncremental``, ``TaskMatrix`` and ``SolutionProbe`` stand on. ``incremental``: pairs of
digits, 200 steps each, without a replay. ``equal``: all digits, trained until the mean training
loss of an epoch is at most 0.02. Learning rates are tuned for each optimizer on validation rows and
seeds that are not among those of the tables: ``incremental`` takes the largest average accuracy
after all pairs of the rates by which each pair is learned to 95 % on average, ``equal`` the largest
accuracy. The tables are mean ± standard error over seeds. Takes a few minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
LARGER = (1e-1, 3e-1)
"""Rates that are tried as well where all digits are trained together."""
TUNING_SEEDS = (1000, 1001)
TASKS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
STEPS, BATCH, LEVEL, MOST_EPOCHS = 200, 32, 0.02, 50
LEARNED = 0.95
"""Mean accuracy on each pair when it was learned that a learning rate must reach."""


class Both:
    """Muon for the hidden matrices, and AdamW for biases and the last layer, as its authors advise.

    Args:
        model: Perceptron.
        lr: Learning rate of both.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        last = list(model.modules())[-1].weight
        matrices = [p for p in model.parameters() if p.ndim == 2 and p is not last]
        others = [p for p in model.parameters() if p.ndim != 2 or p is last]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, weight_decay=0.0),
        ]

    def step(self) -> None:
        """Step both."""
        for part in self.parts:
            part.step()


def sgd(model: nn.Module, lr: float) -> Any:
    """Return SGD with momentum."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def adamw(model: nn.Module, lr: float) -> Any:
    """Return AdamW without decay, so that the optimizer alone differs."""
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)


def lion(model: nn.Module, lr: float) -> Any:
    """Return Lion without decay."""
    from framework.optim import LionK

    return LionK(model.parameters(), lr=lr, weight_decay=0.0)


OPTIMIZERS: dict[str, Callable[[nn.Module, float], Any]] = {
    "SGD (momentum 0.9)": sgd,
    "AdamW": adamw,
    "Muon + AdamW": Both,
    "Lion": lion,
}


class Parts:
    """Training, validation and test rows of the digits; tuning looks at validation alone."""

    def __init__(self) -> None:
        from datamodules import Digits

        data = Digits()
        data.setup("fit")
        sets = {"train": data.train_set, "val": data.val_set, "test": data.test_set}
        for name, part in sets.items():
            rows = [part[row] for row in range(len(part))]  # type: ignore[index,arg-type]
            image = torch.stack([row["image"].flatten() for row in rows])
            setattr(self, name, (image, torch.stack([row["label"] for row in rows])))

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def perceptron(seed: int) -> nn.Sequential:
    """Return a fresh perceptron, the same for every optimizer."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def step(model: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> float:
    """Take one step and return the loss before it."""
    for parameter in model.parameters():
        parameter.grad = None
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def incremental(make: Any, lr: float, seed: int, data: Parts, part: str) -> Tensor:
    """Return the task matrix (5, 5) of pairs of digits, learned one after the other."""
    from framework.data import TaskBatchSampler
    from framework.metrics import AverageForgetting

    x, y = data.train
    rows = [torch.isin(y, torch.tensor(task)).nonzero().flatten() for task in TASKS]
    model = perceptron(seed)
    optimizer = make(model, lr)
    forgetting = AverageForgetting(len(TASKS))
    held_x, held_y = getattr(data, part)
    for learned in range(len(TASKS)):
        batches = TaskBatchSampler(rows, BATCH, 1, STEPS, seed=seed, start=partial(_start, learned))
        for keys in batches:
            chosen = torch.tensor([row for _, row in keys])
            step(model, optimizer, x[chosen], y[chosen])
        with torch.no_grad():
            forgetting.update(model(held_x), held_y, held_y // 2, learned)
    return forgetting.matrix()


def _start(epoch: int) -> tuple[int, int]:
    return epoch, 0


def retention(make: Any, data: Parts, lr: float) -> float:
    """Return the average accuracy after all pairs, if pairs are learned at all at this rate.

    Where no rate learns them, the one by which most is learned has the largest value.

    Without this condition the smallest rate has the largest average, as it learns little.
    """
    found = [incremental(make, lr, seed, data, "val") for seed in TUNING_SEEDS]
    learned = min(float(matrix.diag().mean()) for matrix in found)
    return float(torch.stack(found)[:, -1].mean()) if learned >= LEARNED else learned - 1


def at_equal_loss(make: Any, lr: float, seed: int, data: Parts) -> tuple[nn.Module, int] | None:
    """Return the model and its steps when an epoch's mean loss is at most the level, or None."""
    x, y = data.train
    model = perceptron(seed)
    optimizer = make(model, lr)
    generator = torch.Generator().manual_seed(seed)
    steps = 0
    for _ in range(MOST_EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(y), generator=generator).split(BATCH):
            total += step(model, optimizer, x[rows], y[rows]) * len(rows)
            steps += 1
        if total / len(y) <= LEVEL:
            return model, steps
        if not math.isfinite(total):
            break
    return None


def solution(model: nn.Sequential, data: Parts) -> dict[str, float]:
    """Return the accuracy of the test, and what the probe measures on the training rows."""
    from framework.dynamics import LayerFeatures, measure_solution

    features = LayerFeatures()
    with torch.no_grad():
        features.add(model[:-1](data.train[0]), data.train[1])
        right = model(data.test[0]).argmax(1) == data.test[1]
    found = measure_solution(model, [((data.train[0],), data.train[1])])
    values = {name: float(value) for name, value in (features.compute() | found).items()}
    return {"test": float(right.float().mean()), **values}


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Return mean ± standard error."""
    column = torch.tensor(values, dtype=torch.float64)
    error = column.std() / math.sqrt(len(column)) if len(column) > 1 else torch.tensor(0.0)
    return f"{float(column.mean()):.{digits}f} ± {float(error):.{digits}f}"


def tuned(score: Callable[[float], float], rates: Sequence[float] = RATES) -> float:
    """Return the learning rate of the largest score."""
    return max(rates, key=score)


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    """Print a table in Markdown, each row when it is there."""
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head), flush=True)
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def print_incremental(seeds: int, data: Parts) -> None:
    """Print the last row of the task matrix of each optimizer, and what it forgot."""
    from framework.metrics import average_forgetting_of

    def rows() -> Iterator[Sequence[str]]:
        for name, make in OPTIMIZERS.items():
            lr = tuned(partial(retention, make, data))
            found = [incremental(make, lr, seed, data, "test") for seed in range(seeds)]
            last = torch.stack([matrix[-1] for matrix in found])
            forgotten = [float(average_forgetting_of(matrix)) for matrix in found]
            new = [float(matrix.diag().mean()) for matrix in found]
            cells = [shown(column.tolist(), 2) for column in last.T]
            average = shown(last.mean(1).tolist())
            yield [name, f"{lr:g}", *cells, average, shown(forgotten), shown(new)]

    pairs = [f"{a}, {b}" for a, b in TASKS]
    print(f"\nTest accuracy after all pairs, {STEPS} steps each; mean ± s.e. of {seeds} seeds\n")
    table(["", "lr", *pairs, "average", "forgetting", "each pair when learned"], rows())


def print_equal(seeds: int, data: Parts) -> None:
    """Print what the solutions of each optimizer are like."""
    names = ["test", "effective_rank", "stable_rank", "class_cosine", "sparsity", "pruned_80"]
    names += ["pruned_90", "pruned_mean", "lambda_max", "ascent", "norm_l2", "margin_05"]

    def rows() -> Iterator[Sequence[str]]:
        for name, make in OPTIMIZERS.items():
            lr = tuned(partial(quickness, make, data), (*RATES, *LARGER))
            runs = [at_equal_loss(make, lr, seed, data) for seed in range(seeds)]
            reached = [run for run in runs if run is not None]
            found = [solution(model, data) for model, _ in reached]  # type: ignore[arg-type]
            cells = [shown([one[metric] for one in found]) for metric in names]
            steps = shown([float(steps) for _, steps in reached], 0)
            yield [name, f"{lr:g}", f"{len(reached)}/{seeds}", steps, *cells]

    print(f"\nAt a training loss of at most {LEVEL}; mean ± s.e. of {seeds} seeds\n")
    table(["", "lr", "reached", "steps", *names], rows())


def quickness(make: Any, data: Parts, lr: float) -> float:
    """Return the accuracy of the validation at the level; minus infinity where it is not reached.

    Of equal accuracies the quicker rate is the better one.
    """
    run = at_equal_loss(make, lr, TUNING_SEEDS[0], data)
    if run is None:
        return -math.inf
    model, steps = run
    with torch.no_grad():
        right = model(data.val[0]).argmax(1) == data.val[1]
    return float(right.double().mean()) - 1e-6 * steps


def main() -> None:
    """Print both tables, or one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--part", choices=("incremental", "equal"), help="one of the tables")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, begin = Parts(), time.perf_counter()
    if given.part != "equal":
        print_incremental(given.seeds, data)
    if given.part != "incremental":
        print_equal(given.seeds, data)
    print(f"\n{time.perf_counter() - begin:.0f} s on {torch.get_num_threads()} thread")


if __name__ == "__main__":
    main()

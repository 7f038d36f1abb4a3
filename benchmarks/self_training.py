"""Robust self-training (RSS) on two Gaussians, on digits with few labels, and on a table.

    python -m benchmarks.self_training {gaussians,digits,steps,prices,mnist,table} [--seeds 5]

``gaussians`` is the simulation of arXiv:2310.00027: 200 dimensions, means of norm 1 and their
negative, unit noise; m labeled rows and n unlabeled ones, whose mean is moved by alpha; 600 steps
of Adam on all rows at once, from the labeled mean. The others train a perceptron on 40 labels;
``digits`` compares in-domain and out-of-domain unlabeled rows, ``steps`` the number of steps of the
ascent, ``prices`` gamma. ``mnist`` and ``table`` take what served the digits, untuned.
The accuracy is that after the last step, on test rows that nothing was chosen by.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import GaussianNoise, InterpolationMode, RandomRotation

from benchmarks.experiment import mean_and_sd
from datamodules import BreastCancer, Digits, IDXImages, SemiSupervised
from framework.data.datasets import root_and_rows
from framework.data.labeled_sampling import LabeledBatchSampler
from framework.layers.mlp import mlp_body
from framework.losses import CompSumLoss, RobustSelfTrainingLoss
from framework.utilities.randomness import stable_seed

DIMENSIONS = 200
Arms = dict[str, tuple[Callable[..., "Rows"], dict[str, Any]]]
"""Data by seed, and options of the loss, by the name of an arm."""


class Rows(NamedTuple):
    """Training rows, the labeled ones first, with -100 where there is no label; and test rows."""

    inputs: Tensor
    label: Tensor
    test_inputs: Tensor
    test_label: Tensor


def gaussians(m: int, n: int, alpha: float, seed: int, test: int = 20000) -> Rows:
    """Return m labeled and n unlabeled rows of two Gaussians, and test rows of the labeled ones."""
    generator = torch.Generator().manual_seed(stable_seed("gaussians", seed))

    def unit() -> Tensor:
        return F.normalize(torch.randn(DIMENSIONS, generator=generator), dim=0)

    def draw(rows: int, mean: Tensor) -> tuple[Tensor, Tensor]:
        label = torch.randint(2, (rows,), generator=generator)
        noise = torch.randn(rows, DIMENSIONS, generator=generator)
        return (2 * label - 1)[:, None] * mean + noise, label

    mean, shift = unit(), unit()
    x, label = draw(m, mean)
    test_x, test_label = draw(test, mean)
    others, hidden = draw(n, mean + alpha * shift)
    return Rows(
        torch.cat([x, others]),
        torch.cat([label, torch.full_like(hidden, -100)]),
        test_x,
        test_label,
    )


def linear_accuracy(rows: Rows, m: int, steps: int = 600, **options: Any) -> float:
    """Return the accuracy of a direction that is trained from the labeled mean."""
    sign = (2 * rows.label[:m] - 1).float()
    theta = F.normalize((sign[:, None] * rows.inputs[:m]).mean(0), dim=0).requires_grad_()
    loss = RobustSelfTrainingLoss(inner="closed_form_linear", cost="l2", **options)
    optimizer = torch.optim.Adam([theta], lr=0.02)

    def model(x: Tensor) -> Tensor:
        return F.pad((x @ theta)[:, None], (1, 0))

    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(rows.inputs)
        loss(logits, rows.label, inputs=rows.inputs, forward=model, epoch=0).backward()
        optimizer.step()
    predicted = model(rows.test_inputs).detach().argmax(1)
    return float((predicted == rows.test_label).float().mean())


def rows_of(data: SemiSupervised) -> Rows:
    """Return what a datamodule serves, all in memory."""
    data.setup("fit")
    found = []
    for part in (data.train_set, data.test_set):
        root, rows = root_and_rows(part, list(range(len(part))))  # type: ignore[arg-type]
        batch = root.batch(rows)
        found += [batch["image" if "image" in batch else "input"], batch["label"]]
    return Rows(*found)


def batches(rows: Rows, epochs: int, size: int, seed: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the epoch, the inputs and the labels of every batch, a quarter of it labeled."""
    labeled = int((rows.label >= 0).sum())
    sampler = LabeledBatchSampler(labeled, len(rows.label) - labeled, size, size // 4, seed=seed)
    for epoch in range(epochs):
        sampler.start = partial(_start_of, epoch)
        for keys in sampler:
            picked = torch.tensor([row for _, row in keys])
            yield epoch, rows.inputs[picked], rows.label[picked]


def _start_of(epoch: int) -> tuple[int, int]:
    return epoch, 0


def network_accuracy(
    rows: Rows, seed: int, epochs: int = 20, size: int = 128, **options: Any
) -> float:
    """Return the accuracy of a perceptron after the last step."""
    torch.manual_seed(seed)
    inputs, classes = rows.inputs[0].numel(), int(rows.test_label.max()) + 1
    model = nn.Sequential(mlp_body(inputs, (128, 128)), nn.Linear(128, classes))
    options = {"gamma": 3.0, "gamma_u": 3.0, "steps": 5, "warmup_epochs": epochs // 4, **options}
    loss = RobustSelfTrainingLoss(**options)
    labels_only = CompSumLoss() if options.get("lam") == 0 and not options["steps"] else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    total = sum(1 for _ in batches(rows, epochs, size, seed))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total, pct_start=0.05)
    for epoch, x, label in batches(rows, epochs, size, seed):
        optimizer.zero_grad()
        if labels_only is None:
            loss(model(x), label, inputs=x, forward=model, epoch=epoch).backward()
        else:
            labels_only(model(x), label).backward()
        optimizer.step()
        schedule.step()
    predicted = model(rows.test_inputs).detach().argmax(1)
    return float((predicted == rows.test_label).float().mean())


LABELS: dict[str, Any] = {"lam": 0.0, "steps": 0}
ROBUST = {"lam": 0.0}
PLAIN = {"steps": 0}
TURNED = [RandomRotation([25, 25], InterpolationMode.BILINEAR)]
NOISED = [GaussianNoise(sigma=0.3)]


def digits(seed: int, **options: Any) -> Rows:
    """Return digits with 40 labels that the seed chooses."""
    data = Digits(val_size=0, test_size=597)
    return rows_of(SemiSupervised(data, labeled=4, per_class=True, split_seed=seed, **options))


def mnist(folder: str, seed: int, **options: Any) -> Rows:
    """Return MNIST with 100 labels and 2,000 unlabeled rows that the seed chooses."""
    data = IDXImages(root=f"{folder}/mnist/MNIST/raw", val_size=0)
    options = {"labeled": 10, "per_class": True, "num_unlabeled": 2000, **options}
    return rows_of(SemiSupervised(data, split_seed=seed, **options))


def table(seed: int, **options: Any) -> Rows:
    """Return tumors with 10 labels that the seed chooses."""
    data = BreastCancer(clean_size=0, val_size=0)
    return rows_of(SemiSupervised(data, labeled=5, per_class=True, split_seed=seed, **options))


def print_row(name: str, values: list[list[float]], seconds: float | None = None) -> None:
    """Print one line of a Markdown table."""
    cells = [name, *map(mean_and_sd, values)]
    print("| " + " | ".join([*cells, *([f"{seconds:.1f}"] if seconds else [])]) + " |", flush=True)


def run_gaussians(seeds: int) -> None:
    """Print the simulation."""
    print("| m, alpha | n = 0 | n = 10 m | n = 100 m | n = 10,000 |\n|" + " --- |" * 5)
    for m, alpha in ((10, 0.0), (40, 0.0), (10, 0.5)):
        cells = []
        for n in (0, 10 * m, 100 * m, 10000):
            found = [linear_accuracy(gaussians(m, n, alpha, seed), m) for seed in range(seeds)]
            cells.append(found)
        print_row(f"{m}, {alpha}", cells)


def run_arms(arms: Arms, seeds: int) -> None:
    """Print the accuracy of every arm, and the seconds of CPU of a run."""
    print("| | accuracy | seconds |\n| --- | --- | --- |")
    for name, (make, options) in arms.items():
        began, found = time.process_time(), []
        for seed in range(seeds):
            found.append(network_accuracy(make(seed), seed, **options))
        print_row(name, [found], (time.process_time() - began) / seeds)


def standard(make: Callable[..., Rows], shifts: dict[str, list[nn.Module]]) -> Arms:
    """Return the arms that are compared on every data set."""
    arms: Arms = {
        "labels": (make, LABELS),
        "labels, robust": (make, ROBUST),
        "self-training, not robust": (make, PLAIN),
        "RSS": (make, {}),
    }
    for name, shift in shifts.items():
        moved = partial(make, transform=shift)
        arms[f"self-training, not robust, {name}"] = (moved, PLAIN)
        arms[f"RSS, {name}"] = (moved, {})
    return arms


def main() -> None:
    """Run and print one table."""
    command = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    tables = ("gaussians", "digits", "steps", "prices", "mnist", "table")
    command.add_argument("table", choices=tables)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--data", default=os.environ.get("TRIMTAB_DATA"))
    arguments = command.parse_args()
    shifts = {"unlabeled rows turned by 25 degrees": TURNED, "unlabeled rows noised": NOISED}
    if arguments.table == "gaussians":
        run_gaussians(arguments.seeds)
        return
    if arguments.table == "digits":
        arms = standard(digits, shifts)
    elif arguments.table == "steps":
        arms = {f"RSS, {steps} steps": (digits, {"steps": steps}) for steps in (0, 1, 5, 15)}
    elif arguments.table == "prices":
        arms = {
            f"RSS, gamma {g}": (digits, {"gamma": g, "gamma_u": g}) for g in (0.3, 1.0, 3.0, 10.0)
        }
    elif arguments.table == "mnist":
        arms = standard(partial(mnist, arguments.data), shifts)
    else:
        arms = standard(table, {})
    run_arms(arms, arguments.seeds)


if __name__ == "__main__":
    main()

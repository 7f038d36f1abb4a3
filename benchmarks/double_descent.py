"""Double descent of random-feature regression, by how far the optimizer comes.

    python -m benchmarks.double_descent [--seeds 5] [--picture FILE] [--factors]

200 digits, 20 % of their labels drawn at random, features tanh(2 X W0) of nine widths P, a linear
head trained on the squared error; the other 1,597 digits, with clean labels, are the test rows.
Each seed draws rows, labels and features. ``--picture`` draws the figure of
``docs/double_descent.md``, ``--factors`` sweeps the paper's factors instead. Gradient descent (GD)
goes by singular values, so that a billion steps cost as much as one; the others take their steps.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from datamodules import Digits, LabelNoise
from framework.dynamics.random_features import (
    condition_number,
    curvature,
    descended,
    draw_first_layer,
    exact_solution,
    peak_height,
    random_features,
)
from framework.figures.double_descent import WidthErrors, double_descent
from framework.figures.style import save_png
from framework.optim import LionK

ROWS = 200
WIDTHS = (50, 100, 150, 190, 200, 210, 300, 600, 1200)
PEAK_WIDTHS = (190, 200, 210, 1200)
"""What the height of the peak is measured at."""
Solver = Callable[[Tensor, Tensor], Tensor]
"""From features (N, P) and targets (N, K) to weights (P, K)."""


class Rows(NamedTuple):
    """Centered inputs and one-hot targets, float64, of training and test rows."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


class Found(NamedTuple):
    """Errors (W, S) of a solver, by width and seed."""

    mse: Tensor
    error: Tensor
    train_mse: Tensor

    def peaks(self, widths: Sequence[int]) -> list[float]:
        """Return the height of the peak of each seed."""
        heights = peak_height(widths, self.mse.T, ROWS)
        assert heights is not None
        return heights.tolist()


def digits(seed: int, rows: int = ROWS, noise: float = 0.2) -> Rows:
    """Return digits of which the training rows have a share of labels drawn at random."""
    data = Digits(
        val_size=0,
        test_size=1797 - rows,
        split_seed=seed,
        label_noise=LabelNoise("symmetric", rate=noise, seed=seed),
    )
    data.setup("fit")
    parts = []
    for part in (data.train_set, data.test_set):
        batch = [part[k] for k in range(len(part))]  # type: ignore[index, arg-type]
        inputs = torch.stack([row["image"].flatten() for row in batch]).double()
        labels = torch.tensor([int(row["label"]) for row in batch])
        parts.append((inputs, torch.eye(10, dtype=torch.float64)[labels]))
    (x, y), (test_x, test_y) = parts
    center = x.mean(0)
    return Rows(x - center, y, test_x - center, test_y)


def descent(steps: float, lr: float = 1.0, init_scale: float = 0.0) -> Solver:
    """Return descent by ``lr / L`` from weights of standard deviation init_scale / sqrt(P)."""

    def solve(z: Tensor, y: Tensor) -> Tensor:
        shape = (z.shape[1], y.shape[1])
        generator = torch.Generator().manual_seed(z.shape[1])
        start = torch.randn(shape, generator=generator, dtype=z.dtype) * init_scale
        start /= z.shape[1] ** 0.5
        return descended(z, y, int(steps), lr / float(curvature(z)), start)

    return solve


def trained(
    make: Callable[[Iterable[Parameter]], Optimizer], steps: int, batch_size: int | None = None
) -> Solver:
    """Return steps of an optimizer from zero, in units in which the curvature of the loss is 1."""

    def solve(z: Tensor, y: Tensor) -> Tensor:
        unit = curvature(z).sqrt()
        scaled, targets = (z / unit).float(), y.float()
        weights = Parameter(torch.zeros(z.shape[1], y.shape[1]))
        optimizer = make([weights])
        generator = torch.Generator().manual_seed(0)
        order: list[int] = []
        for _ in range(steps):
            a, b = scaled, targets
            if batch_size is not None:
                if len(order) < batch_size:
                    order = torch.randperm(len(z), generator=generator).tolist()
                chosen, order = order[:batch_size], order[batch_size:]
                a, b = scaled[chosen], targets[chosen]
            weights.grad = a.T @ (a @ weights.detach() - b) / len(a)
            optimizer.step()
        return weights.detach().double() / unit

    return solve


def methods() -> dict[str, Solver]:
    """Return what the figure compares."""
    return {
        "exact": exact_solution,
        "GD, 100 steps": descent(100),
        "GD, 3,000 steps": descent(3000),
        "GD, 1 million steps": descent(10**6),
        "GD, 1 billion steps": descent(10**9),
        "momentum, 3,000 steps": trained(_momentum, 3000),
        "Adam, 3,000 steps": trained(_adam, 3000),
        "Lion, 3,000 steps": trained(_lion, 3000),
    }


def factors() -> dict[str, Solver]:
    """Return the levels of the paper's factors, but for the normalization of the features."""
    return {
        **{f"GD, {steps:,} steps": descent(steps) for steps in (10, 1000, 10**5)},
        **{f"GD from scale {s}, 3,000 steps": descent(3000, init_scale=s) for s in (0.1, 1.0, 3.0)},
        **{f"GD, step {lr}/L, 3,000 steps": descent(3000, lr) for lr in (0.1, 0.5, 1.9)},
        "SGD, step 0.5/L, batches of 20, 3,000 steps": trained(_sgd, 3000, 20),
        "Adam, batches of 20, 3,000 steps": trained(_adam, 3000, 20),
        "Adam, 300 steps": trained(_adam, 300),
    }


def _sgd(weights: Iterable[Parameter]) -> Optimizer:
    return torch.optim.SGD(weights, lr=0.5)


def _momentum(weights: Iterable[Parameter]) -> Optimizer:
    return torch.optim.SGD(weights, lr=1.0, momentum=0.9)


def _adam(weights: Iterable[Parameter]) -> Optimizer:
    return torch.optim.Adam(weights, lr=0.01)


def _lion(weights: Iterable[Parameter]) -> Optimizer:
    return LionK(weights, lr=0.001)


def measure(
    solvers: Mapping[str, Solver],
    seeds: int,
    widths: Sequence[int] = WIDTHS,
    normalize: bool = False,
) -> tuple[dict[str, Found], Tensor]:
    """Return the errors of every solver, and the condition numbers (W, S)."""
    found: dict[str, list[Tensor]] = {name: [] for name in solvers}
    condition = torch.zeros(len(widths), seeds, dtype=torch.float64)
    for seed in range(seeds):
        rows = digits(seed)
        for place, width in enumerate(widths):
            generator = torch.Generator().manual_seed(1000 * seed + width)
            first = draw_first_layer(rows.inputs.shape[1], width, generator)
            z, test_z = (random_features(x, first) for x in (rows.inputs, rows.test_inputs))
            if normalize:
                size = z.square().mean(0).sqrt()
                z, test_z = z / size, test_z / size
            condition[place, seed] = condition_number(z)
            for name, solve in solvers.items():
                weights = solve(z, rows.targets)
                found[name].append(_errors(rows, z @ weights, test_z @ weights))
    shape = (seeds, len(widths), 3)
    tables = {name: torch.stack(values).view(shape) for name, values in found.items()}
    return {name: Found(*table.permute(2, 1, 0)) for name, table in tables.items()}, condition


def _errors(rows: Rows, outputs: Tensor, test_outputs: Tensor) -> Tensor:
    """Return the squared test error, the share of wrong classes, and the squared training error."""
    wrong = test_outputs.argmax(1) != rows.test_targets.argmax(1)
    return torch.stack(
        [
            (test_outputs - rows.test_targets).square().sum(1).mean(),
            wrong.double().mean(),
            (outputs - rows.targets).square().sum(1).mean(),
        ]
    )


def print_widths(found: Mapping[str, Found], condition: Tensor) -> None:
    """Print the table of the errors at every width."""
    shown = ("exact", "GD, 100 steps", "GD, 3,000 steps")
    heads = ["P", "κ, median", "exact: test MSE, mean / median / error"]
    heads += [f"{name}: training MSE / test MSE / error" for name in shown[1:]]
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    exact = found["exact"]
    for place, width in enumerate(WIDTHS):
        mse, error = exact.mse[place], exact.error[place]
        cells = [f"{width:,}", f"{condition[place].median():,.0f}"]
        cells += [f"{mse.mean():,.3g} / {mse.median():,.3g} / {error.mean():.3f}"]
        cells += [
            " / ".join(
                f"{float(column[place].mean()):.3f}" for column in (f.train_mse, f.mse, f.error)
            )
            for f in (found[name] for name in shown[1:])
        ]
        print("| " + " | ".join(cells) + " |")


def print_peaks(found: Mapping[str, Found], widths: Sequence[int], note: str = "") -> None:
    """Print the height of the peak beside the training error, of every solver."""
    at = widths.index(ROWS)
    for name, f in found.items():
        peaks = f.peaks(widths)
        cells = [
            name + note,
            f"{float(f.train_mse[at].mean()):.2g}",
            f"{float(f.mse[at].median()):,.3g}",
            f"{float(f.error[at].mean()):.3f}",
            f"{float(f.error[-1].mean()):.3f}",
            f"{statistics.median(peaks):,.3g} ({min(peaks):,.3g} to {max(peaks):,.3g})",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def draw(found: Mapping[str, Found], condition: Tensor, path: Path) -> None:
    """Write the figure."""
    errors = {name: WidthErrors(f.mse, f.error) for name, f in found.items()}
    exact = errors.pop("exact")
    budgets = {name: e for name, e in errors.items() if name.startswith("GD")}
    others = {name: e for name, e in errors.items() if name not in budgets}
    save_png(double_descent(WIDTHS, ROWS, exact, budgets, condition, others), path)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--picture", type=Path, help="file of the figure")
    parser.add_argument("--factors", action="store_true", help="sweep the factors instead")
    arguments = parser.parse_args()
    if arguments.factors:
        _print_factors(arguments.seeds)
        return
    found, condition = measure(methods(), arguments.seeds)
    print_widths(found, condition)
    _print_heads()
    print_peaks(found, WIDTHS)
    if arguments.picture is not None:
        draw(found, condition, arguments.picture)


def _print_factors(seeds: int) -> None:
    _print_heads()
    print_peaks(measure(factors(), seeds, PEAK_WIDTHS)[0], PEAK_WIDTHS)
    normalized = {"exact": exact_solution, "GD, 3,000 steps": descent(3000)}
    found, _ = measure(normalized, seeds, PEAK_WIDTHS, normalize=True)
    print_peaks(found, PEAK_WIDTHS, ", features normalized")


def _print_heads() -> None:
    heads = ["", "training MSE at P = N", "test MSE at P = N, median"]
    heads += ["error at P = N", "error at P = 6N", "peak: median (range)"]
    print("\n| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads), flush=True)


if __name__ == "__main__":
    main()

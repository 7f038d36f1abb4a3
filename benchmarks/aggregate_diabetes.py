"""How well bags' mean responses teach diabetes progression: bag level, instance level, between.

    python -m benchmarks.aggregate_diabetes [--seeds 50] [--trained 5]

Prints three tables of the squared error of individual held-out targets, standardized, of a linear
model on scikit-learn's 442 x 10 diabetes data: 352 rows in bags, 90 held out, splits and bags drawn
anew for every seed. First the closed form for every bag size k and rho, then a few cells of it
beside models trained by the command, then private releases (Laplace noise) beside the exact risk
of framework.solvers.bag_size_risks. Takes about five minutes. The reference is a run of the first
protocol on 50 other splits: either mean has a standard error of about 0.015, at k 20 and rho 0 of
0.1.
"""

from __future__ import annotations

import statistics

import numpy as np
from numpy.typing import NDArray

from benchmarks.experiment import mean_and_sd, parser, run_arm
from datamodules import Bags, Tabular
from framework.data.privacy import MeanRelease
from framework.solvers import AggregateRidge, bag_size_risks

Fields = dict[str, NDArray]

HELD_OUT, TRAIN = 90, 352
RHOS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
REFERENCE = {
    2: (0.520, 0.519, 0.519, 0.521, 0.543, 0.640),
    5: (0.578, 0.569, 0.559, 0.571, 0.655, 0.808),
    10: (0.718, 0.656, 0.628, 0.670, 0.783, 0.901),
    20: (1.371, 0.794, 0.733, 0.777, 0.868, 0.943),
}
TRAINED = ((2, 0.0), (5, 1.0), (10, 0.03), (20, 0.1))
CLIP = 2.5  # no standardized target lies beyond
EPSILONS = (None, 10.0, 3.0, 2.0, 1.0)
BAG_SIZES = (1, 2, 3, 5, 10, 20)


def table(seed: int) -> Tabular:
    return Tabular(val_size=HELD_OUT, test_size=0, split_seed=seed)


def bagged(seed: int, bag_size: int, epsilon: float | None = None) -> tuple[Fields, Fields]:
    """Return the training rows of a seed in bags, and the held-out rows."""
    clip = None if epsilon is None else CLIP
    data = Bags(table(seed), bag_size, bag_seed=seed, epsilon=epsilon, clip=clip)
    data.setup("fit")
    parts = []
    for part in (data.train_set, data.val_set):
        fields = part.dataset.batch(part.indices)  # type: ignore[union-attr]
        parts.append({name: value.double().numpy() for name, value in fields.items()})
    return parts[0], parts[1]


def error(train: Fields, held_out: Fields, rho: float) -> float:
    """Return the held-out squared error of the closed form."""
    model = AggregateRidge(rho).fit(train["input"], train["target"], train["group"])
    return float(np.mean((model.predict(held_out["input"]) - held_out["target"]) ** 2))


def closed_form(seeds: int) -> None:
    print(
        f"\nClosed form, squared error on held-out rows; mean ± sd of {seeds} splits (reference)\n"
    )
    print("| k | " + " | ".join(f"rho {rho:g}" for rho in RHOS) + " |\n|" + " --- |" * 7)
    for size, references in REFERENCE.items():
        parts = [bagged(seed, size) for seed in range(seeds)]
        cells = [
            f"{mean_and_sd([error(*part, rho) for part in parts])} ({reference:.3f})"
            for rho, reference in zip(RHOS, references, strict=True)
        ]
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


def trained(seeds: int) -> None:
    print(f"\nTrained by SGD with momentum; mean ± sd of {seeds} splits\n")
    print("| k | rho | trained | closed form | largest difference |\n|" + " --- |" * 5)
    for size, rho in TRAINED:
        args = [
            "--config=configs/aggregate.yaml",
            f"--model.criterion.rho={rho}",
            f"--data.bag_size={size}",
            "--data.bag_seed=SEED",
            f"--data.batch_size={TRAIN}",
            "--data.data.test_size=0",
            "--data.data.split_seed=SEED",
        ]
        found = [run_arm(args, seed, ["val/loss"])[0] for seed in range(seeds)]
        exact = [error(*bagged(seed, size), rho) for seed in range(seeds)]
        gap = max(abs(a - b) for a, b in zip(found, exact, strict=True))
        cells = [str(size), f"{rho:g}", mean_and_sd(found), mean_and_sd(exact), f"{gap:.4f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def predictions(seed: int, epsilon: float | None, rho: float) -> list[float]:
    """Return the expected squared error for every bag size, given the training inputs of a seed."""
    everyone = Tabular(val_size=0, test_size=0)
    everyone.setup("fit")
    fields = everyone.train_set.dataset.fields  # type: ignore[union-attr]
    inputs, targets = fields["input"].double().numpy(), fields["target"].double().numpy()
    rows = bagged(seed, 1)[0]["input"]
    # white inputs, for which the error is sigma^2 plus the risk of the coefficients; a linear
    # model's predictions do not depend on the choice
    center, whiten = inputs.mean(0), np.linalg.inv(np.linalg.cholesky(np.cov(inputs.T))).T
    white = np.column_stack([np.ones(len(inputs)), (inputs - center) @ whiten])
    theta, residual, *_ = np.linalg.lstsq(white, targets, rcond=None)
    variance = float(residual[0]) / (len(white) - white.shape[1])
    risks = bag_size_risks(
        np.column_stack([np.ones(len(rows)), (rows - center) @ whiten]),
        sigma=variance**0.5,
        theta=theta,
        rho=rho,
        release=None if epsilon is None else MeanRelease(epsilon),
        clip=None if epsilon is None else CLIP,
        bag_sizes=BAG_SIZES,
        assignments=1,
    )
    return [variance + risk.risk for risk in risks.values()]


def private(seeds: int, rho: float) -> None:
    print(f"\nLaplace release, rho {rho:g}: measured / expected; means over {seeds} splits\n")
    heads = ["epsilon", *(f"k {size}" for size in BAG_SIZES), "best k", "expected best k"]
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    for epsilon in EPSILONS:
        measured = [
            statistics.mean(error(*bagged(s, size, epsilon), rho) for s in range(seeds))
            for size in BAG_SIZES
        ]
        expected = np.mean([predictions(seed, epsilon, rho) for seed in range(seeds)], axis=0)
        cells = [f"{a:.3f} / {b:.3f}" for a, b in zip(measured, expected, strict=True)]
        best = [str(BAG_SIZES[int(np.argmin(values))]) for values in (measured, expected)]
        name = "none" if epsilon is None else f"{epsilon:g}"
        print("| " + " | ".join([name, *cells, *best]) + " |", flush=True)


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=50)
    command.add_argument("--trained", type=int, default=5, help="number of seeds of trained models")
    arguments = command.parse_args()
    closed_form(arguments.seeds)
    trained(arguments.trained)
    for rho in (0.0, 0.1, 1.0):
        private(arguments.seeds, rho)


if __name__ == "__main__":
    main()

"""How sparse autoencoders fare on layer 3 of MiniLM at equal k, encoding each token on its own.

    python -m benchmarks.sae_minilm --cache FOLDER [--seeds 2]

FOLDER takes the activations, which are computed once: 128,016 tokens of Python's documentation.
First TopK with 1,536 features and k = 16, 250 steps of 768 tokens, measured on the last 8,568
tokens. Then every selection with 768 features and k = 12, 300 steps of 512 tokens: of the last 136
contexts every other one calibrates the thresholds, and the rest measure. *Running* are the
thresholds of training, without a calibration.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from benchmarks.experiment import QUIET, mean_and_sd

LARGE = [
    "--config=sae",
    "--data.val_size=126",
    "--data.test_size=8448",
    "--trainer.limit_train_batches=125",
    "--model.lr_scheduler.init_args.warmup_fraction=0.4",
]
SMALL = [
    "--model.d_sae=768",
    "--model.selection.init_args.k=12",
    "--data.batch_size=512",
    "--data.val_size=8448",
    "--data.test_size=8448",
    "--trainer.limit_train_batches=150",
    "--model.lr_scheduler.init_args.warmup_fraction=0.3333",
]
SCHEDULE = (
    "[{class_path: SelectionSchedule, init_args: {phases: [{start: 0.5, selection: "
    "{class_path: FeatureChoice, init_args: {k: 12}}}]}}, {class_path: ThresholdCalibration}]"
)
ARMS = {
    "TopK": ["--config=sae"],
    "mutual choice": ["--config=sae_mutual"],
    "BatchTopK": ["--config=sae_mutual", "--model.selection=BatchTopK"],
    "mutual, then feature choice": ["--config=sae_feature", f"--trainer.callbacks={SCHEDULE}"],
}
HEADS = ["fvu", "l0", "sd of l0", "dead share", "running: fvu", "running: l0"]


def fit(args: list[str], seed: int) -> Any:
    """Run the command and return it, with the weights of its end."""
    import trimtab
    from framework import cli

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as sink:
        out = [f"--trainer.default_root_dir={folder}", f"--seed_everything={seed}", *QUIET]
        with redirect_stdout(sink), redirect_stderr(sink):
            trimtab.import_rooms()
            return cli.run(["fit", *args, *out])


def measure(model: Any, x: Any) -> list[float]:
    """Return fvu, mean and standard deviation of L0, and the share of features that never fire."""
    import torch

    with torch.no_grad():
        code = model.sae.encode_dense(x)
        error = (x - model.sae.decode(code)).double().square().sum()
    spread = (x.double() - x.double().mean(0)).square().sum()
    l0 = (code > 0).sum(1).double()
    dead = (code <= 0).all(0).double().mean()
    return [float(v) for v in (error / spread, l0.mean(), l0.std(), dead)]


def run_large(args: list[str], seed: int) -> list[float]:
    """Return what TopK reaches on the test part."""
    command = fit(args, seed)
    test = command.datamodule.test_set
    return measure(command.model, test.dataset.batch(test.indices)["activation"])


def run_small(args: list[str], seed: int) -> list[float]:
    """Return what is reached with calibrated, then with running thresholds."""
    import torch

    command = fit(args, seed)
    model, data = command.model, command.datamodule
    start, stop = data.text_positions
    rows = torch.arange(data.val_set.indices.start, data.test_set.indices.stop)
    even = rows // (stop - start) % 2 == 0
    table = data.val_set.dataset
    x = table.batch(rows[~even])["activation"]
    model.calibrate([table.batch(rows[even])])
    calibrated = measure(model, x)
    model.sae.thresholds.calibrated.fill_(-1)
    return [*calibrated, *measure(model, x)[:2]]


def print_table(title: str, arms: dict[str, list[str]], run: Any, seeds: int) -> None:
    """Run every arm and print its line."""
    heads = HEADS if run is run_small else HEADS[:4]
    print(f"\n{title}; mean ± sd of {seeds} seeds\n\n| | " + " | ".join(heads) + " |")
    print("|" + " --- |" * (len(heads) + 1), flush=True)
    for name, args in arms.items():
        runs = [run(args, seed) for seed in range(seeds)]
        cells = [mean_and_sd(column) for column in zip(*runs, strict=True)]
        print("| " + " | ".join([name, *cells]) + " |", flush=True)


def main() -> None:
    """Run and print."""
    command = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_argument("--cache", required=True, help="folder of the cached activations")
    command.add_argument("--seeds", type=int, default=2, help="number of seeds, from 0")
    arguments = command.parse_args()
    cache = f"--data.cache_dir={arguments.cache}"
    title = "F = 1,536, k = 16, 250 steps of 768 tokens"
    print_table(title, {"TopK": [*LARGE, cache]}, run_large, arguments.seeds)
    arms = {name: [*args, *SMALL, cache] for name, args in ARMS.items()}
    title = "F = 768, k = 12, 300 steps of 512 tokens"
    print_table(title, arms, run_small, arguments.seeds)


if __name__ == "__main__":
    main()

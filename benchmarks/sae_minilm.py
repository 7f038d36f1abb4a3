"""How sparse autoencoders fare on MiniLM at equal k, encoding each token on its own.

    python -m benchmarks.sae_minilm --cache FOLDER [--seeds 2] [--layer 3] [--lr 4e-4]

FOLDER takes the activations, which are computed once: 128,016 tokens of Python's documentation.
First TopK with 1,536 features and k = 16, 250 steps of 768 tokens, then every selection with 768
features and k = 12, 300 steps of 512 tokens. All are measured on the last 8,448 tokens; thresholds
are calibrated on every other one of these contexts and measured on the rest, and the other way
round. *Running* are the thresholds of training, *batch rule* is the selection of training on
consecutive batches. Models of ``sae-lens`` are trained on the same tokens where it can be imported.
Its loss is not divided by the variance, so that its clipping at 1 makes the gradients of all steps
equally long; clipping ours at 0.001 does the same.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import sae_runs
from benchmarks.sae_runs import HEADS

TOKENS = 8448
SPLIT = ["--data.val_size=4284", "--data.test_size=4284", "--trainer.max_epochs=2"]
LARGE = [
    *SPLIT,
    "--trainer.max_steps=250",
    "--model.lr_scheduler.init_args.warmup_fraction=0.4",
]
SMALL = [
    *SPLIT,
    "--model.d_sae=768",
    "--model.selection.init_args.k=12",
    "--data.batch_size=512",
    "--trainer.max_steps=300",
    "--model.lr_scheduler.init_args.warmup_fraction=0.3333",
]
SCHEDULE = (
    "[{class_path: SelectionSchedule, init_args: {phases: [{start: 0.5, selection: "
    "{class_path: FeatureChoice, init_args: {k: 12}}}]}}, {class_path: ThresholdCalibration}]"
)
ARMS = {
    "TopK, no auxiliary loss": ["--config=sae", "--model.auxiliary=null"],
    "TopK, aux_k": ["--config=sae"],
    "TopK, aux_k, dead after 5 % of the run": ["--config=sae", "--model.dead_tokens=7680"],
    "mutual choice, aux_k": ["--config=sae", "--model.selection=MutualChoice"],
    "mutual choice, aux_zipf": ["--config=sae_mutual"],
    "BatchTopK, aux_k": ["--config=sae", "--model.selection=BatchTopK"],
    "mutual, then feature choice, aux_zipf": [
        "--config=sae_feature",
        f"--trainer.callbacks={SCHEDULE}",
    ],
}
CLIPPED = {
    "TopK, aux_k, clipped at 0.001": ["--config=sae", "--trainer.gradient_clip_val=0.001"],
    "mutual choice, aux_zipf, clipped at 0.001": [
        "--config=sae_mutual",
        "--trainer.gradient_clip_val=0.001",
    ],
}
RUNNING = ["running: fvu", "running: l0", "batch rule: fvu"]


def run(args: list[str], seed: int) -> list[float]:
    """Return what is reached with calibrated, then with running thresholds, then by the batch."""
    import torch

    command = sae_runs.fit(args, seed)
    model, data = command.model, command.datamodule
    folds = sae_runs.held_out(data, TOKENS)
    rows = torch.cat(folds).sort().values
    x = data.val_set.dataset.batch(rows)["activation"]
    own = sae_runs.one_by_one(model)
    if not model.sae.across_tokens:
        return sae_runs.measure([(own, x)])
    found = sae_runs.calibrated(model, data, folds)
    model.sae.thresholds.calibrated.fill_(-1)
    found += sae_runs.measure([(own, x)])[:2]
    if not model.sae.selection.per_feature:
        found.append(sae_runs.by_the_batch(model, x, data.batch_size)[0])
    return found


def peer_rows(arguments: Any, size: int, sizes: tuple[int, int], steps: int) -> None:
    """Print what ``sae-lens`` reaches at inference."""
    from importlib.util import find_spec

    import torch

    from datamodules import Activations

    if find_spec("sae_lens") is None:
        print("sae-lens is left out: it is not installed.")
        return
    data = Activations(
        hook_point=f"encoder.layer.{arguments.layer}",
        cache_dir=arguments.cache,
        batch_size=size,
        val_size=4284,
        test_size=4284,
    )
    data.setup()
    x = data.val_set.dataset.batch(torch.cat(sae_runs.held_out(data, TOKENS)))["activation"]
    for batch in (False, True):
        for start in (False, True):
            name = f"sae-lens {'BatchTopK' if batch else 'TopK'}{', our start' if start else ''}"
            saes = [
                sae_runs.saelens(data, sizes, steps, arguments.lr, seed, batch, start)
                for seed in range(arguments.seeds)
            ]
            runs = [sae_runs.measure([(sae_runs.of_saelens(sae), x)]) for sae in saes]
            sae_runs.print_row(name, runs, len(HEADS + RUNNING))


def main() -> None:
    """Run and print."""
    command = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_argument("--cache", required=True, help="folder of the cached activations")
    command.add_argument("--seeds", type=int, default=2, help="number of seeds, from 0")
    command.add_argument("--layer", type=int, default=3, help="number of the layer, from 0")
    command.add_argument("--lr", type=float, default=4e-4, help="rate of Adam")
    arguments = command.parse_args()
    point, seeds = f"encoder.layer.{arguments.layer}", arguments.seeds
    source = [f"--data.cache_dir={arguments.cache}", f"--data.hook_point={point}"]
    source.append(f"--model.optimizer.init_args.lr={arguments.lr}")
    heads = HEADS + RUNNING
    sae_runs.print_heads(
        f"{point}, rate {arguments.lr}, F = 1,536, k = 16, 250 steps of 768; {seeds} seeds", heads
    )
    for name in ("TopK, no auxiliary loss", "TopK, aux_k", "TopK, aux_k, clipped at 0.001"):
        args = (ARMS | CLIPPED)[name]
        runs = [run([*args, *LARGE, *source], seed) for seed in range(seeds)]
        sae_runs.print_row(name, runs, len(heads))
    peer_rows(arguments, 768, (1536, 16), 250)
    sae_runs.print_heads(
        f"{point}, rate {arguments.lr}, F = 768, k = 12, 300 steps of 512; {seeds} seeds", heads
    )
    for name, args in (ARMS | CLIPPED).items():
        runs = [run([*args, *SMALL, *source], seed) for seed in range(seeds)]
        sae_runs.print_row(name, runs, len(heads))
    peer_rows(arguments, 512, (768, 12), 300)


if __name__ == "__main__":
    main()

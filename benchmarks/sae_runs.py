"""Trains sparse autoencoders, ours and those of ``sae-lens``, and measures them token by token."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from benchmarks.experiment import QUIET, mean_and_sd

Encode = Callable[[Any], tuple[Any, Any]]
"""From activations to what stays of them, (N, F), and reconstructions, (N, d)."""
HEADS = ["fvu", "l0", "sd of l0", "dead share"]


def fit(args: Sequence[str], seed: int) -> Any:
    """Run the command and return it, with the weights of its end."""
    import trimtab
    from framework.command import cli

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as sink:
        out = [f"--run_folder={folder}", f"--seed_everything={seed}", *QUIET]
        with redirect_stdout(sink), redirect_stderr(sink):
            trimtab.import_configurable_classes()
            return cli.run(["fit", *args, *out])


def held_out(data: Any, rows: int | None = None) -> list[Any]:
    """Return two folds of the held-out rows, validation and test; of the last ``rows`` of all."""
    import torch

    first = 0 if rows is None else len(data.val_set.dataset) - rows
    parts = [torch.as_tensor(part.indices) for part in (data.val_set, data.test_set)]
    return [part[part >= first] for part in parts]


def measure(parts: Sequence[tuple[Encode, Any]]) -> list[float]:
    """Return fvu, mean and standard deviation of L0, and the share of features that never fire.

    Args:
        parts: what encodes, and the activations (N, d) that it does; all are measured together.
    """
    import torch

    errors, counts, fired = [], [], []
    with torch.no_grad():
        for encode, x in parts:
            code, rebuilt = encode(x)
            errors.append((x - rebuilt).double().square().sum())
            counts.append((code > 0).sum(1).double())
            fired.append((code > 0).any(0))
    x, l0 = torch.cat([x for _, x in parts]).double(), torch.cat(counts)
    spread = (x - x.mean(0)).square().sum()
    dead = 1 - torch.stack(fired).any(0).double().mean()
    return [float(v) for v in (sum(errors) / spread, l0.mean(), l0.std(), dead)]


def one_by_one(model: Any) -> Encode:
    """Encode every token on its own."""

    def encode(x: Any) -> tuple[Any, Any]:
        code = model.sae.encode_dense(x)
        return code, model.sae.decode(code)

    return encode


def calibrated(model: Any, data: Any, folds: Sequence[Any]) -> list[float]:
    """Return ``measure`` of both folds, each with thresholds that were set on the other."""
    table = data.val_set.dataset
    batches = [table.batch(rows) for rows in folds]
    results = []
    for own, other in (batches, batches[::-1]):
        model.calibrate([other])
        thresholds = model.sae.thresholds.values().clone()

        def encode(x: Any, thresholds: Any = thresholds) -> tuple[Any, Any]:
            model.sae.thresholds.calibrate(thresholds)
            return one_by_one(model)(x)

        results.append((encode, own["activation"]))
    return measure(results)


def by_the_batch(model: Any, x: Any, size: int) -> list[float]:
    """Return ``measure`` with the selection of training, over consecutive batches."""

    def encode(x: Any) -> tuple[Any, Any]:
        code = model.sae.encode_batch(x).code
        return code.dense(), model.sae.decode(code)

    return measure([(encode, part) for part in x.split(size)])


def saelens(
    data: Any, sizes: tuple[int, int], steps: int, lr: float, seed: int, batch: bool, start: bool
) -> Any:
    """Train with ``SAETrainer`` of ``sae-lens``, and return what it saves and loads for inference.

    Adam at a rate that rises over 100 steps and falls over the last fifth of them.

    Args:
        data: an ``Activations``; its training part is read in a random order of each epoch.
        sizes: number of features, k.
        steps: of ``data.batch_size`` tokens.
        lr: rate.
        seed: of the weights and the order.
        batch: BatchTopK rather than TopK.
        start: directions of length 1 and a bias at the mean, as ours, and not 0.1 and 0.
    """
    import torch
    from sae_lens import SAE
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    kinds = {
        True: (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
        False: (TopKTrainingSAE, TopKTrainingSAEConfig),
    }
    make, config = kinds[batch]
    norm = {"decoder_init_norm": 1.0} if start else {}
    sae = make(config(d_in=data.input_size, d_sae=sizes[0], k=sizes[1], device="cpu", **norm))
    if start:
        sae.b_dec.data.copy_(data.sample(1 << 14)["activation"].mean(0))
    size = data.batch_size
    settings = SAETrainerConfig(
        total_training_samples=steps * size,
        train_batch_size_samples=size,
        lr=lr,
        lr_end=0.0,
        lr_warm_up_steps=100,
        lr_decay_steps=steps // 5,
        dead_feature_window=-(-10_000 // size),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as sink,
        redirect_stderr(sink),
        redirect_stdout(sink),
    ):
        SAETrainer(settings, sae, _shuffled(data, seed)).fit().save_inference_model(folder)
        return SAE.load_from_disk(folder)


def _shuffled(data: Any, seed: int) -> Iterator[Any]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    table, total = data.train_set.dataset, len(data.train_set)
    while True:
        order = torch.randperm(total, generator=generator)
        for rows in order.split(data.batch_size)[: total // data.batch_size]:
            yield table.batch(rows)["activation"]


def of_saelens(sae: Any) -> Encode:
    """Encode as its inference does."""

    def encode(x: Any) -> tuple[Any, Any]:
        code = sae.encode(x)
        return code, sae.decode(code)

    return encode


def print_row(name: str, runs: Sequence[Sequence[float]], places: int) -> None:
    """Print mean and standard deviation of every column."""
    cells = [mean_and_sd(column) for column in zip(*runs, strict=True)]
    print("| " + " | ".join([name, *cells, *[""] * (places - len(cells))]) + " |", flush=True)


def print_heads(title: str, heads: Sequence[str]) -> None:
    """Print the first lines of a table."""
    print(f"\n{title}\n\n| | " + " | ".join(heads) + " |\n|" + " --- |" * (len(heads) + 1))

"""Runs arms of an experiment through the command, with several seeds, and prints their spread."""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

PICK: dict[str, Callable[[list[float]], float]] = {
    "": lambda column: column[-1],
    "best": max,
    "lowest": min,
}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def parser(description: str | None, seeds: int) -> argparse.ArgumentParser:
    """Return a parser of ``--data`` (default: the variable TRIMTAB_DATA) and ``--seeds``."""
    result = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    result.add_argument("--data", default=os.environ.get("TRIMTAB_DATA"), help="folder of the sets")
    result.add_argument("--seeds", type=int, default=seeds, help="number of seeds, from 0")
    return result


def run_arm(args: Sequence[str], seed: int, metrics: Sequence[str]) -> list[float]:
    """Fit once and return the last value of each metric.

    ``best:NAME`` stands for the largest value, ``lowest:NAME`` for the smallest one.

    ``SEED`` in an argument becomes the seed, so that data, too, may be drawn anew for each.
    """
    import trimtab

    with tempfile.TemporaryDirectory() as folder:
        out = [f"--run_folder={folder}", f"--seed_everything={seed}", *QUIET]
        with open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink):
            trimtab.main(["fit", *(arg.replace("SEED", str(seed)) for arg in args), *out])
        with (Path(folder) / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
    values = []
    for metric in metrics:
        kind, _, name = metric.rpartition(":")
        column = [float(row[name]) for row in rows if row.get(name)]
        values.append(PICK[kind](column))
    return values


def print_arms(
    title: str,
    arms: Mapping[str, Sequence[str]],
    seeds: int,
    metrics: Sequence[str],
    reference: Mapping[str, str] | None = None,
) -> dict[str, list[list[float]]]:
    """Run and print every arm as a line of a Markdown table: mean and sd over the seeds.

    Returns:
        For every arm the values (seeds, metrics).
    """
    print(f"\n{title}; mean ± sd of {seeds} seeds\n")
    heads = ["", *metrics, *(["reference"] if reference else [])]
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads), flush=True)
    results = {}
    for name, args in arms.items():
        results[name] = runs = [run_arm(args, seed, metrics) for seed in range(seeds)]
        cells = [mean_and_sd(column) for column in zip(*runs, strict=True)]
        if reference:
            cells.append(reference.get(name, ""))
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    return results


def mean_and_sd(values: Sequence[float]) -> str:
    """Return ``mean ± sd`` with the sample's standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"

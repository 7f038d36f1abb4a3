"""What every method does on data that it was not tuned on.

    python -m benchmarks.transfer --data FOLDER [--results FILE] [--only WORD ...] [--seeds 3]
        [--epochs N]

FOLDER is that of the data sets. Every system runs by its own config on two data sets, with no flags
but those that name the data and its sizes, and then with each method in place of the first one, the
baseline. Prints Markdown tables: mean and standard deviation over the seeds, in the last epoch and
in the best one, which nobody can choose without those labels. ``split_seed`` is the seed, too.

Runs that are in FILE are not repeated, so that one that was stopped goes on, and a new method is
added by one more call. ``--only`` takes the systems and methods whose name has one of the words,
and ``--table`` runs nothing. ``--epochs`` trains all of them longer, for a file of its own.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import transfer_data
from benchmarks.experiment import mean_and_sd, parser, run_arm


@dataclass(frozen=True)
class System:
    """A system with its methods, the baseline first, and its data sets.

    Args:
        metric: Metric that is compared.
        data: Flags of every data set.
        arms: Flags of every method.
        best: ``best`` where more is better, ``lowest`` where less is.
    """

    metric: str
    data: dict[str, list[str]]
    arms: dict[str, list[str]]
    best: str = "best"


def systems(data: Path, folder: Path) -> dict[str, System]:
    """Return everything that is measured.

    Args:
        data: Folder of the data sets.
        folder: Place for the files that are made of them.
    """
    cifar, people = transfer_data.cifar10n(data, folder)
    coil, drawn = transfer_data.coil20(data, folder)
    images = {"CIFAR-10, labels of people": [*cifar, *people], "COIL-20": coil}
    noisy = {
        "CIFAR-10, labels of people": [*cifar, *people],
        "COIL-20, 40 % noise": [*coil, *drawn],
    }
    small = ["--data=MatFeatures", "--model.widths=[8,16]"]
    tables = ("concrete", "energy")
    return {
        "Classifier": System("val/accuracy", images, classifiers(small)),
        "Bags of ten rows": System(
            "val/rmse",
            {name: [*transfer_data.bagged(data, name)] for name in tables},
            bags(),
            "lowest",
        ),
        "Regression": System(
            "val/rmse",
            {name: transfer_data.table(data, name) for name in tables},
            regressions(),
            "lowest",
        ),
        "Domain adaptation": System(
            "val/accuracy",
            {
                "SURF, Amazon to Caltech": transfer_data.surf(data),
                "USPS to MNIST": transfer_data.digits(data),
            },
            adaptations(),
        ),
        "Features and networks against wrong labels": System(
            "val/accuracy", noisy, noise_systems()
        ),
    }


def classifiers(flags: Sequence[str]) -> dict[str, list[str]]:
    """Return the overlays that a classifier takes; those that say nothing of training left out."""
    names = {
        "comp-sum, tau 1.7": "compsum",
        "EnsLoss": "ensloss",
        "normalized logistic": "normalized_logistic",
        "SAF": "saf",
        "MESA": "mesa",
        "Lion": "lion",
        "LDR": "ldr",
        "ALDR": "aldr",
    }
    arms = {"cross-entropy": ["--config=classifier", *flags]}
    for title, name in names.items():
        title = f"{title} (`with/{name}`)"
        arms[title] = ["--config=classifier", f"--config=with/{name}", *flags]
    return arms


def noise_systems() -> dict[str, list[str]]:
    """Return the systems for wrong labels."""
    flags = ["--data=MatFeatures", "--model.widths=[64,64]", "--model.lr_scheduler=null"]
    flags += ["--data.batch_size=64"]
    nested = ["--config=nested", *flags]
    pair_of = ["--config=coteaching", *flags]
    return {
        "plain network (`nested`, `sigma: null`)": [*nested, "--model.sigma=null"],
        "nested dropout (`nested`)": nested,
        "co-teaching (`coteaching`, `sigma: null`)": [*pair_of, "--model.sigma=null"],
        "co-teaching with nested dropout (`coteaching`)": pair_of,
    }


def adaptations() -> dict[str, list[str]]:
    """Return the ways to learn from a source and a target."""
    base = ["--config=paretoda", "--data.image_size=null"]
    plain = [*base, "--trainer.callbacks=null"]
    released = "--trainer.callbacks.combiner.plain_terms=[classification,alignment]"
    return {
        "source alone": [*plain, "--model.mimicking=0", "--model.alignment=null"],
        "DANN": [*plain, "--model.mimicking=0"],
        "CDAN": [*plain, "--model.mimicking=0", "--model.alignment=CDAN"],
        "DANN + mimicking, plain sum": plain,
        "ParetoDA (`paretoda`)": base,
        "ParetoDA with `plain_terms`, as released": [*base, released],
    }


def bags() -> dict[str, list[str]]:
    """Return the losses of bags."""
    base = ["--config=aggregate", "--model.num_inputs=8"]
    return {
        "bag-level loss (`rho: 0`)": [*base, "--model.criterion.rho=0"],
        "between (`aggregate`, `rho: 0.03`)": base,
        "instance-level loss (`rho: 1`)": [*base, "--model.criterion.rho=1"],
    }


def regressions() -> dict[str, list[str]]:
    """Return the losses of regression."""
    flags = ["--model.num_inputs=8", "--trainer.max_epochs=100"]
    return {
        "squared error (`regressor`)": ["--config=regressor", *flags],
        "CS-IB (`csib`)": ["--config=csib", *flags],
    }


Results = dict[str, dict[str, dict[str, dict[int, list[float]]]]]


def read(path: Path) -> Results:
    """Return what is in a file of results, by system, data set, method and seed."""
    results: Results = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        place = results.setdefault(row["system"], {}).setdefault(row["data"], {})
        place.setdefault(row["method"], {})[row["seed"]] = row["values"]
    return results


def print_tables(results: Results, everything: dict[str, System]) -> None:
    """Print a table per system."""
    for name, system in everything.items():
        found = results.get(name, {})
        sets = [data for data in system.data if found.get(data)]
        if not sets:
            continue
        print(f"\n## {name}\n\n`{system.metric}`, last epoch / best epoch\n")
        print("| | " + " | ".join(sets) + " |\n|" + " --- |" * (len(sets) + 1))
        for method in system.arms:
            cells = [_cell(found[data].get(method, {})) for data in sets]
            print("| " + " | ".join([method, *cells]) + " |")


def _cell(runs: dict[int, list[float]]) -> str:
    if not runs:
        return ""
    last, best = zip(*runs.values(), strict=True)
    missing = "" if len(runs) > 1 else " (one seed)"
    return f"{mean_and_sd(last)} / {statistics.mean(best):.3f}{missing}"


def main() -> None:
    """Run and print."""
    command = parser(__doc__, seeds=3)
    command.add_argument("--results", type=Path, help="file that runs are kept in")
    command.add_argument("--only", nargs="*", default=[""], help="words of systems and methods")
    command.add_argument("--table", action="store_true", help="run nothing")
    command.add_argument("--epochs", type=int, help="epochs of all, default those of the configs")
    arguments = command.parse_args()
    if arguments.data is None:
        command.error("name the folder of the data sets by --data or TRIMTAB_DATA")
    with tempfile.TemporaryDirectory() as folder:
        everything = systems(Path(arguments.data), Path(folder))
        path = arguments.results or Path(folder) / "results.jsonl"
        if not arguments.table:
            length = [f"--trainer.max_epochs={arguments.epochs}"] if arguments.epochs else []
            run(everything, path, arguments.seeds, arguments.only, length)
        print_tables(read(path), everything)


def run(
    everything: dict[str, System],
    path: Path,
    seeds: int,
    words: Sequence[str],
    length: Sequence[str] = (),
) -> None:
    """Run what is not in the file yet; every seed of all methods before the next."""
    for seed in range(seeds):
        for name, system in everything.items():
            for data, flags in system.data.items():
                for method, arm in system.arms.items():
                    done = read(path).get(name, {}).get(data, {}).get(method, {})
                    if seed in done or not any(word in f"{name} {method}" for word in words):
                        continue
                    metrics = [system.metric, f"{system.best}:{system.metric}"]
                    values = run_arm([*arm, *flags, *length], seed, metrics)
                    row = {"system": name, "data": data, "method": method, "seed": seed}
                    with path.open("a") as file:
                        file.write(json.dumps({**row, "values": values}) + "\n")


if __name__ == "__main__":
    main()

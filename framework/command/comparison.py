"""Several runs in one table: how well they did, and in what their configs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from framework.runs.checkpoint_argument import run_of
from framework.runs.csv_logger import Row, as_number, read_metrics
from framework.runs.version_0_1 import current_config
from framework.utilities.yaml_files import read_yaml

FILES = ("metrics.csv", "metrics_validate.csv", "metrics_test.csv")
# where a run writes says nothing about it
PLACES = ("trainer.default_root_dir", "checkpoint.dirpath", "last_checkpoint.dirpath")


def is_run(folder: Path) -> bool:
    """Return whether a folder holds the metrics of a run."""
    return any((folder / name).is_file() for name in FILES)


def find_runs(places: Sequence[str | Path]) -> list[Path]:
    """Return the run folders that are meant, each once, in order.

    Args:
        places: Run folders, folders of runs, checkpoints of runs, or patterns of those such as
            ``runs/classifier/2026-*``.

    Raises:
        FileNotFoundError: There is no run.
    """
    found: dict[Path, None] = {}
    for place in map(Path, places):
        matches = [place] if place.exists() else map(Path, sorted(glob(str(place))))
        runs = [run for match in matches for run in _runs_at(match)]
        if not runs:
            raise FileNotFoundError(
                f"{place} is not a run folder: it holds no metrics.csv, nor do folders in it."
            )
        found |= dict.fromkeys(runs)
    return list(found)


def _runs_at(place: Path) -> list[Path]:
    # a file or a folder of a run stands for the run
    inside = place.is_file() or place.name == "checkpoints"
    for folder in (place, run_of(place), place.parent if inside else None):
        if folder is not None and is_run(folder):
            return [folder]
    below = [*place.glob("*"), *place.glob("*/*")] if place.is_dir() else []
    return sorted(folder for folder in below if is_run(folder))


@dataclass
class RunResult:
    """What a run was and what it came to.

    Args:
        path: Run folder.
        config: Settings by dotted name.
        rows: Rows of its metrics; a test's come last.
    """

    path: Path
    config: dict[str, Any]
    rows: list[Row]

    @classmethod
    def read(cls, path: Path) -> RunResult:
        """Return the result of a run folder."""
        file = path / "config.yaml"
        config = current_config(read_yaml(file)) if file.is_file() else {}
        rows = [row for name in FILES for row in read_metrics(path / name)[1]]
        return cls(path, _flat(config or {}), rows)

    def values(self, metric: str) -> list[float]:
        """Return the finite values of a metric, in order."""
        texts = [row[metric] for row in self.rows if row.get(metric) not in (None, "")]
        return [value for value in map(as_number, texts) if math.isfinite(value)]


def comparison(runs: Sequence[RunResult]) -> Table:
    """Return the runs as a table, the best first.

    The metric is what the first run's best checkpoint was chosen by; its best and last value, that
    of the test where there is one, and the settings that differ are shown.
    """
    chosen = next((run.config for run in runs if run.config.get("checkpoint.monitor")), {})
    metric = str(chosen.get("checkpoint.monitor", "val/loss"))
    sign = 1 if chosen.get("checkpoint.mode") == "max" else -1
    test = f"test/{metric.partition('/')[2]}"
    best = [max((sign * value for value in run.values(metric)), default=None) for run in runs]
    order = sorted(range(len(runs)), key=lambda i: math.inf if (b := best[i]) is None else -b)
    has_test = any(run.values(test) for run in runs)
    table = Table(box=SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    for name in (f"best {metric}", "last", *([test] if has_test else [])):
        table.add_column(name, justify="right")
    table.add_column("settings that differ", overflow="fold")
    differing = differences([run.config for run in runs])
    names = short_names([run.path for run in runs])
    for i in order:
        top = best[i]
        cells = [_number([] if top is None else [sign * top]), _number(runs[i].values(metric))]
        cells += [_number(runs[i].values(test))] if has_test else []
        table.add_row(names[i], *cells, differing[i])
    return table


def differences(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return for each config the settings in which the configs differ, as ``name=value``.

    Example:
        >>> differences([{"model.lr": 0.1, "seed": 0}, {"model.lr": 0.2, "seed": 0}])
        ['lr=0.1', 'lr=0.2']
    """
    keys = list(dict.fromkeys(key for config in configs for key in config))
    missing = object()
    values = {key: [config.get(key, missing) for config in configs] for key in keys}
    keys = [k for k in keys if k not in PLACES and any(v != values[k][0] for v in values[k])]
    names = dict(zip(keys, _shortest(keys), strict=True))
    return [
        ", ".join(f"{names[key]}={_shown(key, config[key])}" for key in keys if key in config)
        for config in configs
    ]


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of paths, as many as tell them apart.

    Example:
        >>> short_names([Path("runs/a/1"), Path("runs/a/2")])
        ['1', '2']
    """
    parts = [path.resolve().parts for path in paths]
    for number in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-number:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _shortest(keys: Sequence[str]) -> list[str]:
    """Return the last parts of dotted names, as many as tell each from the others."""
    # the class of a part is named after the part
    split = [[p for p in key.split(".") if p not in ("class_path", "init_args")] for key in keys]
    names = []
    for parts in split:
        for number in range(1, len(parts) + 1):
            if sum(other[-number:] == parts[-number:] for other in split) == 1:
                break
        names.append(".".join(parts[-number:]))
    return names


def _flat(config: Any, above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    if isinstance(config, list) and any(isinstance(part, dict) for part in config):
        # objects in a list are told apart by their classes
        classes = [_class_name(part.get("class_path", "")) for part in config]
        flat[above] = " + ".join(classes)
        config = {
            name: part.get("init_args", {}) for name, part in zip(classes, config, strict=True)
        }
    elif not isinstance(config, dict):
        return {above: config}
    for key, part in config.items():
        flat |= _flat(part, f"{above}.{key}" if above else str(key))
    return flat


def _shown(key: str, value: Any) -> str:
    return _class_name(value) if key.rpartition(".")[2] == "class_path" else str(value)


def _class_name(path: object) -> str:
    return str(path).rpartition(".")[2]


def _number(values: Sequence[float]) -> str:
    return f"{values[-1]:.4g}" if values else ""

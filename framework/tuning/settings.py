"""The settings of a study: what ``tune:`` in a config and ``--tune.NAME`` say."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from framework.tuning.samplers import PRUNERS, SAMPLERS, default_sampler
from framework.tuning.search_space import SearchSpace
from framework.utilities.files import file_name
from framework.utilities.nearest_names import nearest

LAUNCHERS = ("subprocess", "slurm")
SLURM_OPTIONS = (
    "account",
    "constraint",
    "cpus-per-gpu",
    "cpus-per-task",
    "exclude",
    "gpus",
    "gpus-per-node",
    "gpus-per-task",
    "gres",
    "licenses",
    "mem",
    "mem-per-cpu",
    "mem-per-gpu",
    "nice",
    "nodelist",
    "partition",
    "qos",
    "reservation",
    "time",
)
"""Options of ``srun`` that a config may give: others would run programs."""


@dataclass(frozen=True)
class TuneSettings:
    """What a study searches for, and how.

    Args:
        space: Settings that are searched over, by their places in the config.
        metric: Metric of the validation that trials are compared by.
        mode: Whether the metric is to be small, ``'min'``, or large, ``'max'``.
        trials: Number of trials of the study, those that fail included.
        sampler: Method that chooses the settings of a trial: ``'gp'``, ``'tpe'``, ``'qmc'``,
            ``'random'``, ``'kg'``, ``'noisy_ei'``, ``'mes'`` or ``'mf_kg'``; the default is
            ``'gp'``, and ``'tpe'`` above 200 trials or 20 settings.
        pruner: Method that stops trials that promise little: ``'none'``, ``'median'`` or
            ``'hyperband'``.
        name: Name of the study.
        folder: Folder of the study; default ``runs/tune/NAME``.
        jobs: Number of trials that run at the same time.
        launcher: How a trial is started: as a ``'subprocess'`` of this command, or by ``'slurm'``.
        slurm: Options of ``srun`` for each trial, such as ``{partition: gpu, gres: gpu:1}``.
        retrain_best: Whether the best config is run once more when the study is done, in the folder
            ``best``.
        seed: Seed of the sampler, and of the trials where ``seed_everything`` is no number.
        deterministic: Whether the same settings give the same value, which the sampler then takes
            for exact: all trials have the seed of the config, rather than that plus their number.
        trial_timeout: Seconds after which a trial is stopped and has failed; None is no limit.
    """

    space: SearchSpace
    metric: str
    mode: str
    name: str
    folder: Path
    trials: int = 25
    sampler: str = "gp"
    pruner: str = "none"
    jobs: int = 1
    launcher: str = "subprocess"
    slurm: dict[str, str] = field(default_factory=dict)
    retrain_best: bool = False
    seed: int = 0
    deterministic: bool = False
    trial_timeout: float | None = None

    def record(self) -> dict[str, Any]:
        """Return what must stay the same for a study to go on."""
        return {
            "metric": self.metric,
            "mode": self.mode,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "seed": self.seed,
            "deterministic": self.deterministic,
            "space": self.space.record(),
        }

    @property
    def sign(self) -> float:
        """Factor that makes a better value of the metric a larger number."""
        return 1.0 if self.mode == "max" else -1.0


NAMES = tuple(one.name for one in fields(TuneSettings))


def read_settings(given: Any, name: str, root: str | Path = "runs") -> TuneSettings:
    """Return the settings that a section ``tune`` says.

    Args:
        given: Section, flags included.
        name: Name of the study where none is given.
        root: Folder of all runs.

    Raises:
        ValueError: It is no such section; the message names the setting and what it may be.

    Example:
        >>> dropout = {"type": "float", "low": 0.0, "high": 0.5}
        >>> section = {"space": {"model.dropout": dropout}, "metric": "val/loss", "mode": "min"}
        >>> read_settings(section, "digits").folder.as_posix()
        'runs/tune/digits'
    """
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            "there is no section tune: give a config with one, such as --config tune/classifier, "
            "or --tune.space FILE, --tune.metric NAME and --tune.mode min or max."
        )
    for key in given:
        if key not in NAMES:
            raise ValueError(f"there is no setting 'tune.{key}'{_nearest(str(key))}.")
    missing = [key for key in ("space", "metric", "mode") if given.get(key) is None]
    if missing:
        raise ValueError(f"tune.{missing[0]} must be given, in a section tune or as a flag.")
    said = {key: _READERS[key](key, value) for key, value in given.items() if value is not None}
    if "name" not in said:
        said["name"] = _name("name", name)
    if "folder" not in said:
        said["folder"] = _folder("folder", Path(root) / "tune" / said["name"])
    if "sampler" not in said:
        trials = said.get("trials", TuneSettings.trials)
        said["sampler"] = default_sampler(len(said["space"].entries), trials)
    return TuneSettings(**said)


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, NAMES)
    return f"; the nearest are {', '.join(near)}" if near else nearest(key, NAMES)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"tune.{name} is {value!r}: it must be a name.")
    return value


def _name(_: str, value: Any) -> str:
    return file_name(str(value), "A study")


def _folder(_: str, value: Any) -> Path:
    return Path(str(value)).expanduser()


def _one_of(allowed: tuple[str, ...], name: str, value: Any) -> str:
    if value not in allowed:
        near = nearest(str(value), allowed)
        raise ValueError(f"tune.{name} is {value!r}: it must be one of {', '.join(allowed)}{near}.")
    return value


def _whole(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"tune.{name} is {value!r}: it must be a whole number of {least} or more.")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"tune.{name} is {value!r}: it must be true or false.")
    return value


def _seconds(name: str, value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not 0 < value < math.inf:
        raise ValueError(f"tune.{name} is {value!r}: it must be a number of seconds.")
    return float(value)


def _slurm_options(_: str, given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise ValueError(f"tune.slurm is {given!r}: it must map options of srun to their values.")
    options = {str(key).lstrip("-").replace("_", "-"): str(given[key]) for key in given}
    for key in options:
        if key not in SLURM_OPTIONS:
            near = nearest(key, SLURM_OPTIONS)
            raise ValueError(
                f"tune.slurm.{key} is no option of srun that may be given here{near}; the ranks "
                "come from trainer.devices and trainer.num_nodes."
            )
    return options


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "space": lambda _, value: SearchSpace.read(value),
    "metric": _text,
    "mode": partial(_one_of, ("min", "max")),
    "trials": _whole,
    "sampler": partial(_one_of, SAMPLERS),
    "pruner": partial(_one_of, PRUNERS),
    "name": _name,
    "folder": _folder,
    "jobs": _whole,
    "launcher": partial(_one_of, LAUNCHERS),
    "slurm": _slurm_options,
    "retrain_best": _flag,
    "seed": partial(_whole, least=0),
    "deterministic": _flag,
    "trial_timeout": _seconds,
}
"""Functions that read a setting, or refuse its value, by its name."""

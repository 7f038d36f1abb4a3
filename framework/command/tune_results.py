"""What a search came to: the best config, a table of the trials and figures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from framework.command.fit_config import fit_config
from framework.command.report import relative
from framework.tuning.best_trial import BestTrial, best_trial, in_best_config
from framework.tuning.progress import in_words
from framework.tuning.study import StudyFolder
from framework.tuning.trial_overlay import trial_overlay
from framework.utilities.console import PlainConsole
from framework.utilities.files import write_text

LONGEST_TABLE = 60
"""Trials that are printed at the end; trials.csv has all of them."""


def trial_config(
    base: Mapping[str, Any], overlay: Mapping[str, Any], arguments: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the whole config of a trial.

    Args:
        base: Whole config of the fit.
        overlay: What the trial lays over it.
        arguments: Further arguments of each fit.
    """
    with TemporaryDirectory() as folder:
        paths = [Path(folder, "base.yaml"), Path(folder, "trial.yaml")]
        for path, content in zip(paths, (base, overlay), strict=True):
            write_text(path, yaml.safe_dump(dict(content), sort_keys=False))
        return fit_config([*arguments, *(f"--config={path}" for path in paths)])


def write_results(study: StudyFolder, arguments: tuple[str, ...] = ()) -> BestTrial | None:
    """Write ``best.yaml``, ``trials.csv`` and the figures of what is known so far.

    Args:
        study: Study.
        arguments: Further arguments of each fit.

    Returns:
        The trial that the study recommends; None before one has a value.
    """
    from framework.figures.style import may_fail, save_png
    from framework.tuning.trials_table import write_trials

    best = best_trial(study)
    number = None if best is None else best.number
    write_trials(study.study, study.folder / "trials.csv", number)
    if best is None:
        return None
    overlay = trial_overlay(study.settings, study.base, best.number, best.params)
    config = trial_config(study.base, overlay, arguments)
    head = in_best_config(best, study.settings, len(study.trials))
    write_text(study.folder / "best.yaml", head + yaml.safe_dump(config, sort_keys=False))
    with may_fail("the figures of the study"):
        from framework.tuning.figures import study_figures

        metric = study.settings.metric
        figures = study_figures(study.study, metric, best.number, best.fidelity)
        for name, figure in figures.items():
            save_png(figure, study.folder / "figures" / f"{name}.png")
    return best


def show_results(
    study: StudyFolder, best: BestTrial | None, arguments: tuple[str, ...] = ()
) -> None:
    """Print the trials, the best of them and where the results lie.

    Args:
        study: Study.
        best: Trial that it recommends.
        arguments: Further arguments of each fit.
    """
    from framework.tuning.trials_table import trials_table

    console = PlainConsole()
    if len(study.trials) <= LONGEST_TABLE:
        number = None if best is None else best.number
        console.print(trials_table(study.study, study.settings.metric, number))
    if best is None:
        return
    value = f"{study.settings.metric} {best.value:.6g}"
    if (name := best.fidelity) is not None:
        at, whole = (in_words({name: of[name]}) for of in (best.trial.params, best.params))
        value += f" at {at}, expected to be the best at {whole}"
    console.print(f"best: trial {best.number}, {value}, {in_words(best.params)}", soft_wrap=True)
    command = ["trimtab", "fit", *arguments, "--config", relative(study.folder / "best.yaml")]
    console.print(f"run it: {shlex.join(command)}", soft_wrap=True)
    console.print(f"results: {relative(study.folder)}", soft_wrap=True)

"""What a search came to: the best config, a table of the trials and figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from framework.command.fit_config import fit_config
from framework.command.report import relative
from framework.tuning.progress import in_words
from framework.tuning.settings import TuneSettings
from framework.tuning.study import StudyFolder
from framework.utilities.console import PlainConsole
from framework.utilities.files import write_text

LONGEST_TABLE = 60
"""Trials that are printed at the end; trials.csv has all of them."""


def trial_config(
    settings: TuneSettings,
    base: Mapping[str, Any],
    values: Mapping[str, Any],
    arguments: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the whole config of a trial."""
    overlay = settings.space.overlay(base, values)
    with TemporaryDirectory() as folder:
        paths = [Path(folder, "base.yaml"), Path(folder, "trial.yaml")]
        for path, content in zip(paths, (dict(base), overlay), strict=True):
            write_text(path, yaml.safe_dump(content, sort_keys=False))
        return fit_config([*arguments, *(f"--config={path}" for path in paths)])


def write_results(study: StudyFolder, arguments: tuple[str, ...] = ()) -> None:
    """Write ``best.yaml``, ``trials.csv`` and the figures of what is known so far.

    Args:
        study: Study.
        arguments: Further arguments of each fit.
    """
    from framework.figures.style import may_fail, save_png
    from framework.tuning.trials_table import write_trials

    write_trials(study.study, study.folder / "trials.csv")
    if (best := study.best()) is None:
        return
    name, metric, count = study.settings.name, study.settings.metric, len(study.trials)
    value, params = float(best.value), best.params
    head = (
        f"# Trial {best.number} of the study {name}: {metric} {value:.6g}, the best of {count}.\n"
    )
    if study.settings.sampler == "mf_kg" and (full := study.at_full_fidelity()) is not None:
        params = full
        head = (
            f"# What {count} trials of the study {name} expect to have the best {metric} when run "
            "as long as the longest ones.\n"
        )
    config = trial_config(study.settings, study.base, params, arguments)
    write_text(study.folder / "best.yaml", head + yaml.safe_dump(config, sort_keys=False))
    with may_fail("the figures of the study"):
        from framework.tuning.figures import study_figures

        for name, figure in study_figures(study.study, study.settings.metric).items():
            save_png(figure, study.folder / "figures" / f"{name}.png")


def show_results(study: StudyFolder) -> None:
    """Print the trials, the best of them and where the results lie."""
    from framework.tuning.trials_table import trials_table

    console = PlainConsole()
    if len(study.trials) <= LONGEST_TABLE:
        console.print(trials_table(study.study, study.settings.metric))
    if (best := study.best()) is None:
        return
    console.print(
        f"best: trial {best.number}, {study.settings.metric} {float(best.value):.6g}, "
        f"{in_words(best.params)}",
        soft_wrap=True,
    )
    config = relative(study.folder / "best.yaml")
    console.print(f"run it: trimtab fit --config {config}", soft_wrap=True)
    console.print(f"results: {relative(study.folder)}", soft_wrap=True)

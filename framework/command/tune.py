"""The command that searches for the settings of a fit."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from framework.command.fit_config import fit_config
from framework.command.report import relative
from framework.command.tune_arguments import merged, take_tune, without_sections
from framework.command.tune_results import show_results, trial_config, write_results
from framework.runs.config_files import ROOT, name_of_config, option
from framework.runs.slurm_job import said_once
from framework.runs.stop_signals import command_signals
from framework.tuning.config_places import laid_over
from framework.tuning.driver import Driver
from framework.tuning.launcher import (
    Launcher,
    SlurmLauncher,
    SubprocessLauncher,
    gpu_shares,
    visible_gpus,
)
from framework.tuning.progress import Progress
from framework.tuning.retraining import retrain
from framework.tuning.settings import NAMES, TuneSettings, read_settings
from framework.tuning.study import StudyFolder, pruner_of, sampler_of
from framework.utilities.console import PlainConsole
from framework.utilities.packages import require_package

HELP = """\
usage: trimtab tune --config NAME [--config tune/NAME ...] [--tune.NAME VALUE ...] [--OPTION VALUE]

Search for the settings of a fit: each trial is a fit of its own, in a process of its own.

The section tune of a config, or options --tune.NAME VALUE:
{settings}

tune.space maps settings to what they may be, and is a file or a section:
  model.optimizer.lr: {{type: float, low: 0.0001, high: 0.1, log: true}}
  model.widths: {{type: categorical, choices: [[16], [32, 16]]}}
  data.batch_size: {{type: int, low: 16, high: 128, step: 16}}

All other options are those of trimtab fit, and hold for every trial. The same command again goes on
with a study that was interrupted; a larger --tune.trials adds trials to one that is done.
"""
OF_ONE_RUN = ("--ckpt_path", "--name", "--run_folder")


def main(args: Sequence[str], launcher: Launcher | None = None) -> None:
    """Search, print the trials, and write the best config, a table and figures.

    Args:
        args: Command line after ``tune``.
        launcher: Function that starts a fit; default as ``tune.launcher`` says.

    Raises:
        ValueError: The command line, the section ``tune`` or the study's folder is wrong.
        FileExistsError: Another process searches in the study's folder.
        ModuleNotFoundError: Optuna is not installed.
        StudyError: The search cannot go on.
        RuntimeError: Every trial failed.
    """
    if not args or "--help" in args or "-h" in args:
        sys.stdout.write(HELP.format(settings=_settings_help()))
        return
    require_package("optuna", extra="tune", purpose="trimtab tune")
    _check_is_alone(args)
    given, rest = take_tune(args)
    with TemporaryDirectory() as scratch:
        sections, rest = without_sections(rest, Path(scratch))
        base = fit_config(rest)
    root = (base.get("trainer") or {}).get("default_root_dir") or ROOT
    settings = read_settings(merged([*sections, given]), name_of_config(args), root)
    allowed = tuple(f"--allow={name}" for name in option(args, "--allow"))
    # what it needs is said before anything is written
    sampler_of(settings, 0)
    check_space(settings, base, allowed)
    warn_of_monitor(settings, base)
    warn_of_fidelity(settings)
    search(settings, base, launcher or _launcher(settings, base), allowed)


def search(
    settings: TuneSettings, base: Mapping[str, Any], launcher: Launcher, arguments: tuple[str, ...]
) -> None:
    """Run a study to its end and write what it came to.

    Args:
        settings: Settings of the study.
        base: Whole config of the fit.
        launcher: Function that starts a fit.
        arguments: Further arguments of each fit.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = StudyFolder(settings, base, sampler_of, pruner_of)
    try:
        with Progress(settings) as progress:
            driver = Driver(study, launcher, arguments, progress)
            _say_how_to_go_on(driver)
            known = len(study.trials) - len(study.unfinished())
            if known:
                progress.console.print(
                    f"{relative(study.folder)}: goes on after {known} trial(s)", soft_wrap=True
                )
            try:
                driver.run()
            finally:
                best = write_results(study, arguments)
        show_results(study, best, arguments)
        if best is None:
            raise RuntimeError(f"no trial of {study.folder} ended well; see trials/*/output.txt.")
        if settings.retrain_best:
            _retrain(study, launcher, arguments)
    finally:
        study.release()


def check_space(
    settings: TuneSettings, base: Mapping[str, Any], arguments: tuple[str, ...] = ()
) -> None:
    """Read the config of the fit with the ends of each setting: a wrong one is refused at once.

    Args:
        settings: Settings of the study.
        base: Whole config of the fit.
        arguments: Further arguments of each fit.

    Raises:
        ValueError: The config has no such setting.
        SystemExit: With code 2 and a message, where a value is of another type.
    """
    for corner in settings.space.corners():
        trial_config(base, laid_over(base, corner), arguments)


def _retrain(study: StudyFolder, launcher: Launcher, arguments: tuple[str, ...]) -> None:
    PlainConsole().print(f"trains the best config in {relative(study.folder / 'best')}")
    code = retrain(study, launcher, study.folder / "best.yaml", arguments)
    if code:
        raise RuntimeError(
            f"the run of the best config failed (exit code {code}); see "
            f"{study.folder / 'best' / 'output.txt'}."
        )


def _launcher(settings: TuneSettings, base: Mapping[str, Any]) -> Launcher:
    if settings.launcher == "slurm":
        return SlurmLauncher.of(settings.name, base, settings.slurm)
    if settings.slurm:
        raise ValueError("tune.slurm is for --tune.launcher slurm, which is not asked for.")
    shares = gpu_shares(settings.jobs, base.get("trainer") or {}, visible_gpus())
    return SubprocessLauncher(shares)


def _check_is_alone(args: Sequence[str]) -> None:
    """Refuse what belongs to one run, and a launcher that would start the search several times."""
    for name in OF_ONE_RUN:
        if option(args, name) or name in args:
            instead = "; the study is called by --tune.name" if name != "--ckpt_path" else ""
            raise ValueError(f"{name} is of one run, and a search has many{instead}.")
    # of torchrun, and of srun
    processes = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    if any(number != "1" for number in processes):
        with said_once():
            raise ValueError(
                "trimtab tune is one process and starts those of its trials: call it without "
                "torchrun, by srun with one task, and give the ranks of a trial by "
                "--trainer.devices."
            )


def warn_of_monitor(settings: TuneSettings, base: Mapping[str, Any]) -> None:
    """Say where the checkpoints of a trial are chosen by another metric than the trials.

    Args:
        settings: Settings of the study.
        base: Whole config of the fit.
    """
    checkpoint = base.get("checkpoint") or {}
    monitor, mode = checkpoint.get("monitor"), checkpoint.get("mode")
    if monitor is None or (monitor, mode) == (settings.metric, settings.mode):
        return
    sys.stderr.write(
        f"trimtab: trials are compared by {settings.metric} ({settings.mode}), and their best "
        f"checkpoints are chosen by {monitor} ({mode}), as checkpoint.monitor and checkpoint.mode "
        "say.\n"
    )


def warn_of_fidelity(settings: TuneSettings) -> None:
    """Say where a fidelity is marked that the sampler does not know of.

    Args:
        settings: Settings of the study.
    """
    fidelity = settings.space.fidelity()
    if fidelity is None or settings.sampler == "mf_kg":
        return
    sys.stderr.write(
        f"trimtab: tune.space marks {fidelity} as the fidelity, which is for --tune.sampler mf_kg; "
        f"{settings.sampler} searches over it as over any other setting.\n"
    )


def _say_how_to_go_on(driver: Driver) -> None:
    """Let a signal end the fits that run, and say how the study goes on."""
    if (signals := command_signals()) is None:
        return

    def leave(signum: int) -> str:
        stopped = len(driver.running)
        driver.stop()
        again = f"{stopped} trial(s) were stopped and are done again" if stopped else ""
        return f"{again + '; ' if again else ''}the same command goes on with the study"

    signals.settle("the search was done", True, None, leave)


def _settings_help() -> str:
    """Return a line for each setting, from the docstring that explains them."""
    from textwrap import fill

    from framework.command.jsonargparse_internals import arguments_of

    texts = {argument.name: argument.text for argument in arguments_of(TuneSettings)}
    lines = []
    for name in NAMES:
        text = " ".join(str(texts.get(name, "")).replace("``", "").split())
        lines.append(
            fill(
                text,
                96,
                initial_indent=f"  --tune.{name:<18}",
                subsequent_indent=" " * 27,
            )
        )
    return "\n".join(lines)

"""Runs the best config of a study once more."""

from __future__ import annotations

import time
from pathlib import Path

from framework.tuning.child import end
from framework.tuning.driver import POLL, set_aside
from framework.tuning.launcher import Launcher
from framework.tuning.study import StudyFolder
from framework.tuning.trial_files import TrialFiles
from framework.utilities.files import make_folder


def retrain(
    study: StudyFolder, launcher: Launcher, config: Path, arguments: tuple[str, ...] = ()
) -> int:
    """Run the best config once more, in the folder ``best``; return the exit code.

    Args:
        study: Study.
        launcher: Function that starts a fit.
        config: Best config.
        arguments: Further arguments of the fit.
    """
    folder = study.folder / "best"
    set_aside(folder, study.folder / "earlier")
    make_folder(folder)
    variables = {
        "WANDB_RUN_GROUP": study.settings.name,
        "WANDB_NAME": f"{study.settings.name}/best",
    }
    given = [*arguments, f"--config={config}", f"--run_folder={folder}"]
    child = launcher(given, variables, TrialFiles(folder).output)
    try:
        while (code := child.poll()) is None:
            time.sleep(POLL)
    finally:
        end([child])
    return code

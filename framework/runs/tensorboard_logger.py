"""TensorBoard with one folder of event files per run folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from framework.runs.dashboard_logger import DashboardLogger, config_text
from framework.runs.slurm_facts import slurm_facts
from framework.utilities.lightning_internals import OpenTensorBoardLogger


class RunTensorBoardLogger(DashboardLogger, OpenTensorBoardLogger):
    """Logs to event files in ``tensorboard`` of the run folder.

    ``tensorboard --logdir runs`` shows them.
    A resumed run goes on in the same folder, without what the files have of steps after its
    checkpoint. The config is shown among the texts. Where the files cannot be written any more, one
    warning says so and the run goes on without them.

    Args:
        folder: Folder in which ``tensorboard`` is made; None leaves it to the command, which sets
            ``folder`` to the run folder.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
        ValueError: Something is logged before the folder is known.

    Example:
        >>> logger = RunTensorBoardLogger("runs/digits/1")  # doctest: +SKIP
        >>> logger.log_dir  # doctest: +SKIP
        'runs/digits/1/tensorboard'
    """

    title = "TensorBoard"

    def __init__(self, folder: str | None = None) -> None:
        super().__init__(save_dir="", name="", version="tensorboard", default_hp_metric=False)
        self.folder = folder

    @property
    def root_dir(self) -> str:
        """The run folder."""
        return str(self.run_folder)

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.run_folder)

    @property
    def log_dir(self) -> str:
        """The folder of the event files."""
        return str(self.run_folder / "tensorboard")

    @rank_zero_only
    def continue_from(self, global_step: int) -> None:
        """Leave out what an earlier part of the run logged after a checkpoint.

        Args:
            global_step: Optimizer steps in the checkpoint.
        """
        super().continue_from(global_step)
        self.attempt(self.start_again, purge_step=global_step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Write the config, and the numbers of the SLURM job, as a text."""
        shown = {**params, **({"slurm": facts} if (facts := slurm_facts()) else {})}
        # an indented line of Markdown is shown as it is
        lines = "".join(f"    {line}\n" for line in config_text(shown).splitlines())
        self.attempt(lambda: self.experiment.add_text("config", lines, 0))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write values."""
        self.attempt(super().log_metrics, metrics, step)

    @rank_zero_only
    def save(self) -> None:
        """Write what is held."""
        self.attempt(super().save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left, and close the file."""
        self.attempt(super().finalize, status)

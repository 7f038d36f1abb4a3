"""Weights & Biases with one run per run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from framework.runs.dashboard_logger import DashboardLogger
from framework.runs.panels import EPOCH, STEP
from framework.runs.slurm_facts import slurm_facts, slurm_group
from framework.utilities.error_reason import reason_of
from framework.utilities.files import write_text
from framework.utilities.lightning_internals import OpenWandbLogger

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class RunWandbLogger(DashboardLogger, OpenWandbLogger):
    """Logs to Weights & Biases, under one run id for as long as the run folder exists.

    The id is kept in the file ``wandb_run_id``, so a resumed run, a test or a validation goes on in
    the same W&B run. With ``offline``, or ``WANDB_MODE=offline`` in the environment, nothing leaves
    this machine; upload later with ``wandb sync --append RUN/wandb/offline-run-*``. Each metric has
    the axis of its domain's panel, and the best values are in the summary as ``best/<metric>``.
    Where W&B fails after its start, one warning says so and the run goes on without it.

    Args:
        project: Project on W&B; default ``WANDB_PROJECT`` of the environment, or ``trimtab``.
        name: Name of the run; default ``WANDB_NAME``, or the last two parts of the run folder,
            config and time.
        entity: User or team; default your own.
        group: Group of runs; default ``WANDB_RUN_GROUP``, or the number of the SLURM array or job.
        job_type: Kind of job; default ``WANDB_JOB_TYPE``, or the command that began the run, such
            as ``fit``.
        notes: Description of the run.
        tags: Tags of the run.
        offline: Whether to record on this machine only.
        log_model: Whether the best and the last checkpoint are sent as artifacts, each with the
            config, when a command ends well; ``'all'`` sends every one as soon as it is saved.
        report: Whether a report with the domain's panels is made for each run that is sent, where
            the package ``wandb-workspaces`` is installed.
        folder: Folder where W&B writes; None leaves it to the command, which sets ``folder`` to
            the run folder.

    Raises:
        ConnectionError: W&B could not start.
        ValueError: The file ``wandb_run_id`` of the run folder holds no id, or the run folder is
            the current one and holds settings of W&B.

    Example:
        >>> logger = RunWandbLogger(project="digits", offline=True, folder="runs/digits/1")
        >>> logger.name
        'digits'
    """

    title = "Weights & Biases"

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        notes: str | None = None,
        tags: Sequence[str] | None = None,
        offline: bool = False,
        log_model: bool | Literal["all"] = False,
        report: bool = True,
        folder: str | None = None,
    ) -> None:
        super().__init__(
            project=project or os.environ.get("WANDB_PROJECT") or "trimtab",
            name=name,
            entity=entity,
            group=group,
            job_type=job_type,
            notes=notes,
            tags=tags,
            # W&B's own setting instead of Lightning's, which changes the environment for good
            mode="offline" if offline else None,
            log_model=log_model,
        )
        # W&B warns of this argument, which Lightning always hands over
        self.start_options.pop("anonymous", None)
        self.folder = folder
        self.report = report
        self._defined: set[str] = set()
        self._sent: dict[str, int] = {}

    @property
    def save_dir(self) -> str | None:
        """The run folder."""
        return self.folder

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``wandb.Run`` of this run folder."""
        return super().experiment if self.is_started else self._start()

    def _start(self) -> Any:
        import wandb

        folder = self.run_folder
        _check_settings(folder)
        options, given = self.start_options, os.environ
        options["dir"] = str(folder)
        # W&B itself read these when it was imported
        options["notes"] = options["notes"] or given.get("WANDB_NOTES")
        tags = given.get("WANDB_TAGS", "").split(",")
        options["tags"] = options["tags"] or [tag for tag in tags if tag]
        # a run that goes on keeps the group and the kind of job that it began with
        if not (folder / "wandb_run_id").is_file():
            options["group"] = options["group"] or given.get("WANDB_RUN_GROUP") or slurm_group()
            options["job_type"] = options["job_type"] or given.get("WANDB_JOB_TYPE") or self.command
        options["id"] = _run_id(folder / "wandb_run_id")
        usual = "/".join(folder.resolve().parts[-2:])
        options["name"] = self.run_name or given.get("WANDB_NAME") or usual
        try:
            run = super().experiment
        except wandb.Error as error:
            raise ConnectionError(
                f"Weights & Biases could not start ({reason_of(error)}); run `wandb login`, or set "
                "WANDB_MODE=offline to record on this machine."
            ) from error
        self._defined.clear()
        run.define_metric(EPOCH, step_metric=STEP)
        if facts := slurm_facts():
            run.config.update({"slurm": facts}, allow_val_change=True)
        return run

    def _update_config(self, values: Mapping[str, Any]) -> None:
        self.experiment.config.update(values, allow_val_change=True)

    @rank_zero_only
    def log_graph(self, model: nn.Module, input_array: Tensor | None = None) -> None:
        """Learn the panels of a module, and add them to the run's config with their units."""
        super().log_graph(model, input_array)
        panels = {panel.title: asdict(panel) for panel in self.layout.panels}
        self.attempt(self._update_config, {"panels": panels})

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Add to the run's config."""
        self.attempt(super().log_hyperparams, params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values, each against the axis of its panel, and the best ones in the summary."""
        self.attempt(self._log, metrics, step)

    def _log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        run = self.experiment
        for name in metrics.keys() - self._defined - {EPOCH}:
            run.define_metric(name, step_metric=self.layout.axis(name))
            self._defined.add(name)
        super().log_metrics(metrics, step)
        if best := self.improved(metrics):
            run.summary.update(best)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run, marked as failed unless ``status`` is ``'success'``.

        What is logged afterwards continues the same run.
        """
        self.attempt(super().finalize, status)
        if status == "success" and self.report and self.is_started and not self.is_lost:
            from framework.runs.wandb_report import make_report

            make_report(self.experiment, self.layout, self.run_folder)
        self.close_by(self.end_run, exit_code=0 if status == "success" else 1)
        if self.is_lost:
            import wandb

            # at the end of Python it would fail again, with a traceback
            with suppress(Exception):
                wandb.teardown()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Send a checkpoint at once, or note it for the end, as ``log_model`` says."""
        self.attempt(super().after_save_checkpoint, checkpoint_callback)

    def send_checkpoints(self, checkpoint: ModelCheckpoint) -> None:
        """Send the checkpoints of a callback that are new, each with the config beside it.

        A file that lies out of the run folder is left out.
        """
        import wandb

        folder = self.run_folder
        paths = {checkpoint.best_model_path, checkpoint.last_model_path, *checkpoint.best_k_models}
        for path in sorted(Path(path) for path in paths if path):
            below = path.resolve().is_relative_to(folder.resolve())
            if not below or not path.is_file() or self._sent.get(str(path)) == _version(path):
                continue
            score = checkpoint.best_k_models.get(str(path))
            artifact = wandb.Artifact(
                f"model-{self.experiment.id}",
                type="model",
                metadata={
                    "monitor": checkpoint.monitor,
                    "mode": checkpoint.mode,
                    "score": None if score is None else float(score),
                },
            )
            artifact.add_file(str(path), name=path.name)
            for side in sorted(path.parent.glob(f"{escape(path.name)}.*.shards")):
                artifact.add_dir(str(side), name=side.name)
            if (folder / "config.yaml").is_file():
                artifact.add_file(str(folder / "config.yaml"), name="config.yaml")
            self.experiment.log_artifact(artifact, aliases=["latest", path.stem])
            self._sent[str(path)] = _version(path)


def _version(path: Path) -> int:
    return path.stat().st_mtime_ns


def _check_settings(folder: Path) -> None:
    """Refuse the settings that W&B would take out of a run folder: they say where the key is sent.

    It takes those of the current folder, which may be the run's.
    """
    settings = Path("wandb", "settings")
    if settings.is_file() and settings.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{settings.resolve()} would tell W&B where to send the run and your key: remove it, "
            "or start from another folder."
        )


def _run_id(path: Path) -> str:
    if not path.is_file():
        write_text(path, f"{uuid4().hex[:8]}\n")
    with path.open(errors="replace") as file:
        found = file.read(200).strip()
    # W&B makes a folder of this name
    if not RUN_ID.fullmatch(found):
        raise ValueError(f"{path} holds {found[:20]!r}, which is no id of a W&B run: remove it.")
    return found

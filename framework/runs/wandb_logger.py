"""Weights & Biases with one run per run folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from framework.utilities.error_reason import reason_of
from framework.utilities.files import write_text
from framework.utilities.lightning_internals import OpenWandbLogger

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class RunWandbLogger(OpenWandbLogger):
    """Logs to Weights & Biases, under one run id for as long as the run folder exists.

    The id is kept in the file ``wandb_run_id``, so a resumed run, a test or a validation goes on in
    the same W&B run. With ``offline``, or ``WANDB_MODE=offline`` in the environment, nothing leaves
    this machine; upload later with ``wandb sync --append RUN/wandb/offline-run-*``.

    Args:
        project: Project on W&B.
        name: Name of the run; default the last two parts of the run folder, config and time.
        entity: User or team; default your own.
        tags: Tags of the run.
        offline: Whether to record on this machine only.
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

    def __init__(
        self,
        project: str = "trimtab",
        name: str | None = None,
        entity: str | None = None,
        tags: Sequence[str] | None = None,
        offline: bool = False,
        folder: str | None = None,
    ) -> None:
        # W&B's own setting instead of Lightning's, which changes the environment for good
        mode = "offline" if offline else None
        super().__init__(project=project, name=name, entity=entity, tags=tags, mode=mode)
        # W&B warns of this argument, which Lightning always hands over
        self.start_options.pop("anonymous", None)
        self.folder = folder

    @property
    def save_dir(self) -> str | None:
        """The run folder."""
        return self.folder

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``wandb.Run`` of this run folder."""
        if not self.is_started:
            if self.folder is None:
                raise ValueError("RunWandbLogger does not know where to write: set its `folder`.")
            import wandb

            folder = Path(self.folder)
            _check_settings(folder)
            self.start_options["dir"] = str(folder)
            self.start_options["id"] = _run_id(folder / "wandb_run_id")
            self.start_options["name"] = self.run_name or "/".join(folder.resolve().parts[-2:])
            try:
                return super().experiment
            except wandb.Error as error:
                reason = reason_of(error)
                raise ConnectionError(
                    f"Weights & Biases could not start ({reason}); run `wandb login`, or set "
                    "WANDB_MODE=offline to record on this machine."
                ) from error
        return super().experiment

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run, marked as failed unless ``status`` is ``'success'``.

        What is logged afterwards continues the same run.
        """
        super().finalize(status)
        self.end_run(exit_code=0 if status == "success" else 1)


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

"""The first line of a command: what runs where, and from which state."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from framework.command.report import relative
from framework.runs.job import restarts
from framework.runs.slurm_job import job_id
from framework.utilities.console import PlainConsole


class RunHeader(Callback):
    """Prints where a command runs, into which folder it writes, and from which state it goes on.

    That is one line, before the first batch: ranks, nodes and devices, SLURM's job and how often it
    was started again, the run folder, and the step and the file of a checkpoint.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RunHeader()], logger=False)
    """

    def __init__(self) -> None:
        self._step: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the checkpoint of an earlier fit."""
        self._step = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note the step that training goes on from."""
        self._step = checkpoint.get("global_step")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of a fit."""
        self._print(trainer)

    def _on_evaluation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of an evaluation, which has loaded its checkpoint."""
        if trainer.state.fn != "fit":
            self._print(trainer)

    on_validation_start = on_test_start = on_predict_start = _on_evaluation_start

    @rank_zero_only
    def _print(self, trainer: Trainer) -> None:
        assert trainer.state.fn is not None
        parts = [f"{trainer.state.fn.value} on {_place(trainer)}"]
        if (job := job_id()) is not None:
            again = restarts()
            parts.append(f"SLURM job {job}" + (f", restart {again}" if again else ""))
        parts += [relative(trainer.default_root_dir), self._state(trainer)]
        PlainConsole().print(" | ".join(parts), soft_wrap=True)

    def _state(self, trainer: Trainer) -> str:
        """Return which weights there are at the start."""
        fits = trainer.state.fn == "fit"
        if trainer.ckpt_path is None and trainer.global_step:
            return f"{'goes on' if fits else 'weights'} at step {trainer.global_step}"
        if trainer.ckpt_path is None:
            return "starts anew" if fits else "weights of the start"
        step = "" if self._step is None else f" at step {self._step}"
        how = f"resumed{step} from" if fits else "weights of"
        return f"{how} {relative(trainer.ckpt_path)}"


def _place(trainer: Trainer) -> str:
    """Return ranks, nodes and devices."""
    device = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    ranks = f"{trainer.world_size} ranks" if trainer.world_size > 1 else "1 process"
    nodes = f" on {trainer.num_nodes} nodes" if trainer.num_nodes > 1 else ""
    host = os.environ.get("SLURMD_NODENAME") or platform.node()
    return f"{ranks}{nodes} ({kind}, {host}, {trainer.precision})"

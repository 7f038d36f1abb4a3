"""The norm of the gradient in every optimizer step, as a file that a second run refines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from framework.objectives.errors import IncompatibleError
from framework.runs.panels import STEP, Panel
from framework.runs.run_folder import holds_run
from framework.schedules.gradient_norms import (
    FILE_NAME,
    ORDERS,
    GradientNorms,
    gradient_norms,
    holds_gradient_norms,
    norm_lines,
    save_gradient_norms,
)
from framework.training.compatibility import sees_scaled_gradients
from framework.utilities.checks import check_one_of
from framework.utilities.files import file_name as checked_name
from framework.utilities.files import open_in_place, writing
from framework.utilities.lightning_internals import logged_step

BLOCK = 512
"""Optimizer steps whose norms stay on their device before they are fetched and written."""


class GradientNormRecorder(Callback):
    """Records the norm of the whole gradient in each optimizer step, for ``RefinedLR``.

    The norms are those of the gradient as the optimizer's rank sees it: accumulated, averaged over
    ranks, without the scale of fp16, and before it is clipped. They are written to a text file in
    the run folder, or where the first logger or the Trainer keeps its files, and logged as
    ``gradient_norm/l2`` and ``gradient_norm/l1`` as often as losses are. A step that looks at
    several gradients has the norm of the first.

    The series is in the checkpoint: a run that was killed and resumed has the file of one that
    never was. A run that starts anew replaces the file. No step waits for a GPU.

    Paper: Defazio et al., *When, Why and How Much? Adaptive Learning Rate Scheduling by
    Refinement*, 2023, arXiv:2310.07831.

    Args:
        norms: Norms that are recorded, of ``'l2'`` and ``'l1'``: SGD is refined by the first, Adam
            and its like by the second.
        file_name: Name of the file, which ends in ``.csv``.

    Raises:
        ValueError: Another norm or name, or a file of that name that holds something else.
        IncompatibleError: The run has several optimizers, its ranks hold parts of parameters, or
            gradients are scaled for fp16 in a fused optimizer.

    Example:
        >>> GradientNormRecorder(norms=["l2"]).norms
        ('l2',)
    """

    whole_parameters = True
    panels: tuple[Panel, ...] = (
        Panel("Norm of the gradient", ("gradient_norm/*",), "norm", axis=STEP),
    )

    def __init__(self, norms: Sequence[str] = ("l2", "l1"), file_name: str = FILE_NAME) -> None:
        for norm in norms:
            check_one_of(ORDERS, norms=norm)
        if not norms or len({*norms}) != len(norms):
            raise ValueError(f"norms must name each norm once, and any, got {[*norms]}.")
        if not checked_name(file_name, "The file of gradient norms").endswith(".csv"):
            raise ValueError(f"file_name must end in .csv, got {file_name!r}.")
        self.norms = tuple(norms)
        self.file_name = file_name
        self._series = torch.zeros(len(self.norms), 0)
        self._block: list[Tensor] = []
        self._path: Path | None = None
        self._total_steps: int | None = None
        self._written = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run whose gradient is not one."""
        optimizers = [type(optimizer).__name__ for optimizer in trainer.optimizers]
        if len(optimizers) != 1:
            raise IncompatibleError(
                f"GradientNormRecorder records the steps of one optimizer; this run has "
                f"{' and '.join(optimizers) or 'none'}."
            )
        if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
            raise IncompatibleError(
                f"GradientNormRecorder needs whole gradients, and "
                f"{type(trainer.strategy).__name__} gives each rank a part of them: use the "
                "strategy ddp."
            )
        if sees_scaled_gradients(trainer.optimizers[0], trainer):
            raise IncompatibleError(
                f"A fused {optimizers[0]} takes gradients as they are scaled for fp16, so that "
                "GradientNormRecorder cannot see their norm; set model.optimizer.fused to false, "
                "or use bf16-mixed."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the file, and go on from the step of the checkpoint.

        Raises:
            ValueError: A file that is no such record has its name.
        """
        path = _folder_of(trainer) / self.file_name
        if path.exists() and not (path.is_file() and holds_gradient_norms(path)):
            raise ValueError(
                f"{path} is there already and holds no gradient norms: move it, or set file_name."
            )
        self._path, self._written, self._block = path, 0, []
        steps = trainer.estimated_stepping_batches
        self._total_steps = int(steps) if 0 < steps < math.inf else None
        self._fill_up_to(trainer.global_step)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure the gradient of this step."""
        known = self._series.shape[1] + len(self._block)
        # LBFGS and its like compute several gradients in a step
        if not trainer.is_global_zero or known > trainer.global_step:
            return
        if known < trainer.global_step:  # a step whose gradient nobody showed
            self._fetch()
            self._fill_up_to(trainer.global_step)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        values = torch.stack([*gradient_norms(parameters, self.norms).values()])
        self._block.append(values)
        if len(self._block) == BLOCK:
            self._write(trainer)
        step = logged_step(trainer)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and trainer.loggers and (step + 1) % every == 0:
            row: dict[str, float] = {"epoch": trainer.current_epoch}
            measured = zip(self.norms, values.tolist(), strict=True)
            row |= {f"gradient_norm/{name}": value for name, value in measured}
            for logger in trainer.loggers:
                logger.log_metrics(row, step=step)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write what the checkpoint knows."""
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rest."""
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what is known, if that is possible still."""
        with suppress(OSError, RuntimeError):
            self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the series."""
        self._fetch()
        return {"norms": [*self.norms], "series": self._series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a series of the same norms; of others nothing is known."""
        series, known = state_dict["series"], state_dict["norms"]
        self._block = []
        unknown = torch.full((series.shape[1],), math.nan)
        rows = [series[known.index(n)] if n in known else unknown for n in self.norms]
        self._series = torch.stack(rows).float().cpu()

    def _fill_up_to(self, step: int) -> None:
        """Cut the series at a step, or note the steps before it as unknown."""
        missing = step - self._series.shape[1]
        if missing > 0:
            rank_zero_warn(
                f"The gradient norms of {missing} steps before step {step} are unknown, and noted "
                "as such."
            )
            unknown = torch.full((len(self.norms), missing), math.nan)
            self._series = torch.cat([self._series, unknown], 1)
        self._series = self._series[:, :step].clone()  # a view would be saved with all it is of
        self._written = min(self._written, step)

    def _fetch(self) -> None:
        """Fetch what lies on the device."""
        if self._block:
            columns = torch.stack(self._block, 1).cpu()
            self._series, self._block = torch.cat([self._series, columns], 1), []

    def _write(self, trainer: Trainer) -> None:
        """Add the new steps to the file; where it is not there, write it whole."""
        self._fetch()
        steps = self._series.shape[1]
        if not trainer.is_global_zero or self._path is None or steps == 0:
            return
        if self._written == 0 or not self._path.is_file():
            optimizer = type(trainer.optimizers[0]).__name__
            norms = dict(zip(self.norms, self._series, strict=True))
            save_gradient_norms(self._path, GradientNorms(norms, optimizer, self._total_steps))
        elif self._written < steps:
            new = dict(zip(self.norms, self._series[:, self._written :], strict=True))
            with writing(self._path), open_in_place(self._path) as file:
                file.seek(0, 2)
                file.write("".join(norm_lines(new, start=self._written)).encode())
        self._written = steps


def _folder_of(trainer: Trainer) -> Path:
    """Return the run folder, or where a run without the command keeps its files."""
    root, of_logger = Path(trainer.default_root_dir), trainer.log_dir  # asks rank 0, on all ranks
    return root if holds_run(root) else Path(of_logger or root)

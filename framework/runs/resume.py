"""A run that is killed and resumed ends with the same bits as one that never was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelPruning,
)
from torch import Tensor
from torch.optim import Optimizer

from framework.distributed.collectives import rank, world_size
from framework.distributed.sample_state import SampleState
from framework.losses.loss import Loss
from framework.objectives.errors import IncompatibleError
from framework.runs.checkpoint_io import (
    new_token,
    remove_shards,
    side_directory,
    use_atomic_checkpoints,
)
from framework.runs.csv_logger import RunLogger
from framework.runs.dashboard_logger import DashboardLogger
from framework.runs.optimizer_fit import refuse_state_of_others
from framework.runs.own_checkpoints import follow_moved_run, own_checkpoints
from framework.runs.same_checkpoint import check_same_checkpoint
from framework.utilities.lightning_internals import (
    call_before_restoring,
    call_before_saving,
    leave_closed_epoch,
    stop_calling_before_saving,
)
from framework.utilities.randomness import capture_rng, global_seed, restore_rng, stable_seed


class ExactResume(Callback):
    """Keeps in each checkpoint what Lightning leaves out.

    These are the random number generators of every rank and all per-sample memory of the module,
    its losses and the callbacks. (The place in the epoch is in the datamodule's state, the epoch's
    running means in the module's.) Checkpoints are written atomically. Every
    ``TrainingModule`` brings this callback along.
    """

    def __init__(self) -> None:
        self._rng: list[dict[str, Any]] | None = None
        self._tokens: dict[Path, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write and read checkpoints safely, with side files next to them."""
        use_atomic_checkpoints(trainer)
        call_before_restoring(trainer, check_same_checkpoint)
        if stage == "fit":
            call_before_saving(
                trainer, lambda saved, path: self._save_shards(trainer, pl_module, saved, path)
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo ``setup``."""
        stop_calling_before_saving(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the generators of every rank and the replicated tables; called on every rank."""
        states: list[Any] = [None] * world_size()
        own = capture_rng()
        if world_size() > 1:
            dist.all_gather_object(states, own)
        else:
            states = [own]
        checkpoint["rng"] = states
        checkpoint["sample_state"] = {
            name: state.state_dict()
            for name, state in _tables(trainer, pl_module)
            if state.layout == "replicated"
        }

    def _save_shards(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        checkpoint: dict[str, Any],
        path: Path,
    ) -> None:
        """Write this rank's shards before the checkpoint that refers to them."""
        sharded = [(n, s) for n, s in _tables(trainer, pl_module) if s.layout != "replicated"]
        if "sample_state" not in checkpoint or not sharded:
            return
        checkpoint["shards"] = trainer.strategy.broadcast(new_token())
        if trainer.local_rank == 0 and not trainer.is_global_zero and path in self._tokens:
            # on another machine's disk nobody removes them when the checkpoint is replaced; on one
            # that both see, rank 0 may write the new ones already
            remove_shards(path, self._tokens[path], checkpoint["shards"])
        self._tokens[path] = checkpoint["shards"]
        directory = side_directory(path, checkpoint["shards"])
        for name, state in sharded:
            state.save_shard(directory, name)
        trainer.strategy.barrier("shards of per-sample memory")

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the tables now, and keep the generators until training starts.

        Raises:
            IncompatibleError: A callback leaves out of the checkpoint what the run would need.
        """
        states = checkpoint.get("callbacks", {})
        for callback in trainer.checkpoint_callbacks:
            key = callback.state_key
            if isinstance(callback, ModelCheckpoint) and key in states:
                states[key] = follow_moved_run(callback, states[key], str(trainer.ckpt_path))
                states[key] = own_checkpoints(callback, states[key])
        if trainer.state.fn != "fit":
            return
        if any(isinstance(c, ModelPruning) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise IncompatibleError(
                "ModelPruning keeps its masks out of the checkpoint, so that pruned weights would "
                "grow again: start such a run anew, or leave the callback out."
            )
        self._rng = checkpoint.get("rng")
        self._step = int(checkpoint["global_step"])
        for logger in trainer.loggers:
            if isinstance(logger, (RunLogger, DashboardLogger)):
                logger.continue_from(self._step)
        saved = checkpoint.get("sample_state", {})
        for name, state in _tables(trainer, pl_module):
            if state.layout == "replicated":
                if name in saved:
                    state.load_state_dict(saved[name])
            elif "shards" in checkpoint:
                path = Path(str(trainer.ckpt_path))
                state.load_shards(side_directory(path, checkpoint["shards"]), name)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a checkpoint of another optimizer before it is restored."""
        refuse_state_of_others(trainer.optimizers)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the generators: nothing between here and the next batch draws from them."""
        leave_closed_epoch(trainer)
        for optimizer in trainer.optimizers:
            check_fused_state(optimizer)
        for config in trainer.lr_scheduler_configs:
            check_schedule(config.scheduler)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):
                # it looks at the epoch when that starts, which a resumed one did before
                callback.on_train_epoch_start(trainer)
        if self._rng is None:
            return
        if len(self._rng) == world_size():
            restore_rng(self._rng[rank()])
        else:
            torch.manual_seed(stable_seed(global_seed(), self._step, rank()))
        self._rng = None


def check_fused_state(optimizer: Optimizer) -> None:
    """Refuse a state that a fused optimizer would read and write beyond, as torch does not look.

    Args:
        optimizer: Optimizer, whose state may come of a checkpoint.

    Raises:
        ValueError: A value in it has another shape than its parameter, or repeats its numbers.
    """
    for group in optimizer.param_groups:
        # the checkpoint says what is fused, too
        for parameter in group["params"] if group.get("fused") else ():
            for name, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor):
                    continue
                shape = torch.Size() if name == "step" else parameter.shape
                stored = value.untyped_storage().nbytes() // value.element_size()
                if value.shape != shape or stored - value.storage_offset() < shape.numel():
                    raise ValueError(
                        f"The checkpoint's 'optimizer_states' do not fit the model: {name!r} of a "
                        f"parameter of the shape {[*parameter.shape]} has {[*value.shape]}."
                    )


def check_schedule(schedule: Any) -> None:
    """Refuse a state that took the place of a schedule's methods, or of its optimizer.

    torch writes whatever a checkpoint names into the schedule.

    Args:
        schedule: Learning rate schedule, whose state may come of a checkpoint.

    Raises:
        ValueError: It did.
    """
    for name, value in vars(schedule).items():
        is_method = callable(getattr(type(schedule), name, None)) and not callable(value)
        if is_method or (name == "optimizer" and not isinstance(value, Optimizer)):
            raise ValueError(
                f"The checkpoint's 'lr_schedulers' do not fit {type(schedule).__name__}: "
                f"{name!r} is none of its values."
            )


def _tables(trainer: Trainer, module: LightningModule) -> Iterator[tuple[str, SampleState]]:
    """Yield every per-sample table under its owner's name."""
    owners: list[tuple[str, object]] = [(type(module).__name__, module)]
    owners += [(name, part) for name, part in module.named_modules() if isinstance(part, Loss)]
    seen: dict[str, int] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        kind = type(callback).__name__
        seen[kind] = seen.get(kind, 0) + 1
        owners.append((kind if seen[kind] == 1 else f"{kind}-{seen[kind]}", callback))
    for name, owner in owners:
        for attribute, value in vars(owner).items():
            for label, state in _labeled(attribute, value):
                if state.persistent:
                    yield f"{name}.{label}", state


def _labeled(attribute: str, value: object) -> list[tuple[str, SampleState]]:
    if isinstance(value, SampleState):
        return [(attribute, value)]
    if isinstance(value, list):
        states = enumerate(value)
        return [(f"{attribute}-{i}", s) for i, s in states if isinstance(s, SampleState)]
    return []

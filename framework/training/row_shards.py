"""Checkpoints of training with parameters of which every rank holds some rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from framework.distributed.row_shards import RowShard, own_rows, row_shards, whole_rows


def save_whole_rows(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Put whole parameters, and their optimizer states, in the place of this rank's rows.

    A collective call, after which rank 0 has a checkpoint as that of one process.

    Args:
        module: Module, whose ranks hold rows.
        checkpoint: Checkpoint that is to be written, which is changed.
    """
    weights, shards = checkpoint["state_dict"], row_shards(module)
    for name, shard in shards.items():
        weights[name] = whole_rows(weights[name], shard)
    states = checkpoint.get("optimizer_states", [])
    for place, optimizer in enumerate(module.trainer.optimizers[: len(states)]):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        states[place] = _changed(states[place], module, parameters, whole_rows)


def take_own_states(module: Any, checkpoint: dict[str, Any]) -> None:
    """Put this rank's rows in the place of whole optimizer states.

    Args:
        module: ``TrainingModule``, whose ranks hold rows.
        checkpoint: Checkpoint that was read, which is changed.
    """
    # the parts of the module take their rows of the weights; these are the groups that the
    # optimizer, which is made after the checkpoint is read, will get
    parameters = [p for group in module.parameter_groups() for p in group["params"]]
    for place, state in enumerate(checkpoint.get("optimizer_states", [])):
        checkpoint["optimizer_states"][place] = _changed(state, module, parameters, own_rows)


def _changed(
    state: dict[str, Any],
    module: LightningModule,
    parameters: list[Tensor],
    change: Callable[[Tensor, RowShard], Tensor | None],
) -> dict[str, Any]:
    """Return an optimizer's state, with the values of the shape of a parameter changed."""
    shards = {id(module.get_parameter(name)): shard for name, shard in row_shards(module).items()}
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    values = dict(state["state"])
    # the optimizer says it where they do not fit
    for number, parameter in zip(numbers, parameters, strict=False):
        shard = shards.get(id(parameter))
        if shard is not None and number in values:
            values[number] = {
                name: change(value, shard) if _has_rows(value, parameter) else value
                for name, value in values[number].items()
            }
    return {**state, "state": values}


def _has_rows(value: Any, parameter: Tensor) -> bool:
    """Return whether a value has rows like those of a parameter, as many or others."""
    shape = parameter.shape[1:]
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[1:] == shape

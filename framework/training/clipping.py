"""Clipping of gradients, whatever the precision and wherever the parameters are."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.optim import Optimizer

from framework.distributed.collectives import all_reduce_sum
from framework.distributed.row_shards import row_shards


def clip_gradients(
    module: LightningModule, optimizer: Optimizer, value: float | None, algorithm: str | None
) -> None:
    """Clip as the Trainer is told to.

    In bf16 as in float32, also for a fused optimizer, as nothing is scaled there; and by the norm
    of the whole gradient, also where ranks hold rows of a parameter.

    Args:
        module: Module, whose Trainer trains.
        optimizer: Optimizer of the parameters.
        value: Largest norm, or value; None or 0 for no clipping.
        algorithm: ``'norm'``, which is the default, or ``'value'``.
    """
    plugin = module.trainer.precision_plugin
    if value and row_shards(module) and algorithm != "value":
        _clip_by_whole_norm(module, optimizer, value)
    elif value and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
        kind = GradClipAlgorithmType(algorithm or "norm")
        Precision.clip_gradients(plugin, optimizer, value, kind)
    else:
        module.clip_gradients(optimizer, value, algorithm)


def _clip_by_whole_norm(module: LightningModule, optimizer: Optimizer, max_norm: float) -> None:
    # by norms that each rank took of what it holds, the parameters that all have would diverge
    shards = {id(module.get_parameter(name)) for name in row_shards(module)}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grads: tuple[list[Tensor], list[Tensor]] = [], []
    for parameter in parameters:
        if parameter.grad is not None:
            grads[id(parameter) in shards].append(parameter.grad)
    same, own = (torch.nn.utils.get_total_norm(found) for found in grads)
    norm = (same**2 + all_reduce_sum(own**2)).sqrt()
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)

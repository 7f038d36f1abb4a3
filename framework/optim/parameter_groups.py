"""Groups of parameters that an optimizer and a schedule treat differently."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import Parameter

from framework.layers.response.names import GATES


def is_decayed(name: str, parameter: Parameter) -> bool:
    """Return whether weight decay is for a parameter: not for vectors, nor for gates of a response.

    Args:
        name: Name of the parameter.
        parameter: Parameter.

    Example:
        >>> import torch
        >>> is_decayed("0.weight", nn.Parameter(torch.zeros(2, 3)))
        True
        >>> is_decayed("0.weight_gate", nn.Parameter(torch.zeros(2, 3)))
        False
    """
    return parameter.ndim > 1 and not name.endswith(tuple(GATES))


def decay_norm_bias_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Return weights with weight decay, other vectors without, and biases without.

    The group of the biases, batch norm's among them, says ``bias``, which
    ``framework.schedules.MomentumWarmupCosine`` looks for. Parameters that are not trained are left
    out, and so is a group that has none.

    Args:
        module: Module whose parameters are grouped.

    Example:
        >>> groups = decay_norm_bias_groups(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
        >>> [(len(group["params"]), group.get("bias", False)) for group in groups]
        [(1, False), (1, False), (2, True)]
    """
    decayed: dict[str, Any] = {"params": []}
    vectors: dict[str, Any] = {"params": [], "weight_decay": 0.0}
    biases: dict[str, Any] = {"params": [], "weight_decay": 0.0, "bias": True}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        group = decayed if is_decayed(name, parameter) else vectors
        if name.rpartition(".")[2] == "bias":
            group = biases
        group["params"].append(parameter)
    return [group for group in (decayed, vectors, biases) if group["params"]]

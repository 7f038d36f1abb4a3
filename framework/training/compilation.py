"""Networks that run as compiled code, in place."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn
from torch.nn.modules.loss import _Loss
from torchmetrics import Metric, MetricCollection

from framework.distributed.row_shards import row_shards
from framework.objectives.errors import IncompatibleError


def compile_networks(
    module: nn.Module, device: torch.device, *, several_backwards: bool = False
) -> None:
    """Let every part of a module with parameters, but losses, run by ``torch.compile``.

    It is compiled at its first call and for each new kind of shapes, and stays the same object with
    the same keys. What is called otherwise than as ``part(x)`` runs as it did, and so does a part
    of which each rank holds some rows: torch does not trace what it sends to the others.

    Args:
        module: Module whose direct parts are compiled.
        device: Device on which they run.
        several_backwards: Whether gradients go backward through one forward pass several times.

    Raises:
        IncompatibleError: This machine has no C++ compiler, which code for the CPU needs.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise IncompatibleError(
            f"model.compile needs a C++ compiler, and there is no {compiler!r} on this machine: "
            "install one, name it in the variable CXX, or set model.compile to false."
        )
    if several_backwards:
        from torch._functorch import config as functorch

        # compiled code otherwise writes over what the next backward pass needs, and torch refuses
        functorch.donated_buffer = False
    for part in module.children():
        if isinstance(part, (_Loss, Metric, MetricCollection)):
            continue
        if row_shards(part):
            continue
        if part._compiled_call_impl is None and next(part.parameters(), None) is not None:
            part.compile()

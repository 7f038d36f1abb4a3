"""Buffers that every rank computes itself, so that none need be sent in each step."""

from __future__ import annotations

from torch import nn

from framework.layers.sync_batchnorm import SyncBatchNorm

PACKAGES = frozenset({"framework", "modules", "callbacks"})
"""Packages whose buffers are functions of the global batch."""


def has_equal_buffers(module: nn.Module) -> bool:
    """Return whether all buffers stay equal on all ranks by themselves.

    Those of joined batch norm and of this project do; of others nothing is known.
    """
    return all(
        isinstance(part, SyncBatchNorm) or type(part).__module__.partition(".")[0] in PACKAGES
        for part in module.modules()
        if next(part.buffers(recurse=False), None) is not None
    )

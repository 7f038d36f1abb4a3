"""Layers that more than one domain uses."""

from framework.layers.dropout import GlobalDropout
from framework.layers.gradient_reversal import ReversalSchedule, reverse_gradient
from framework.layers.grouped_mlp import GroupedMLP
from framework.layers.nested_dropout import NestedDropout
from framework.layers.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm

__all__ = [
    "GlobalDropout",
    "GroupedMLP",
    "NestedDropout",
    "ReversalSchedule",
    "SyncBatchNorm",
    "convert_sync_batchnorm",
    "reverse_gradient",
]

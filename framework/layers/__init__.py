"""Layers that more than one domain uses."""

from framework.layers.nested_dropout import NestedDropout
from framework.layers.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm

__all__ = ["NestedDropout", "SyncBatchNorm", "convert_sync_batchnorm"]

"""Layers that more than one domain uses."""

from framework.layers.dropout import GlobalDropout
from framework.layers.nested_dropout import NestedDropout
from framework.layers.sync_batchnorm import SyncBatchNorm, convert_sync_batchnorm

__all__ = ["GlobalDropout", "NestedDropout", "SyncBatchNorm", "convert_sync_batchnorm"]

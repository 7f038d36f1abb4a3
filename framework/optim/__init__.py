"""Optimizers: ``torch.optim.Optimizer`` subclasses, one file each."""

from framework.optim.lion import LionK

__all__ = ["LionK"]

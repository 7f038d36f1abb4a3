"""Losses: one file per paper or family."""

from framework.losses.aggregate import AggregateResponseLoss
from framework.losses.comp_sum import CompSumLoss, h_consistency_transform
from framework.losses.ldr import ALDRLoss, LDRLoss
from framework.losses.loss import ClassificationLoss, Loss, RegressionLoss

__all__ = [
    "ALDRLoss",
    "AggregateResponseLoss",
    "ClassificationLoss",
    "CompSumLoss",
    "LDRLoss",
    "Loss",
    "RegressionLoss",
    "h_consistency_transform",
]

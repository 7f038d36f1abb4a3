"""Losses: one file per paper or family."""

from framework.losses.aggregate import AggregateResponseLoss
from framework.losses.comp_sum import CompSumLoss, h_consistency_transform
from framework.losses.cs_divergence import CSQMI, ConditionalCSDivergenceLoss
from framework.losses.csib import CSIBLoss
from framework.losses.ensloss import EnsLoss
from framework.losses.information_maximization import TargetClassificationMimicking
from framework.losses.ldr import ALDRLoss, LDRLoss
from framework.losses.loss import ClassificationLoss, Loss, RegressionLoss
from framework.losses.normalized_logistic import NormalizedLogisticLoss
from framework.losses.smooth_adversarial import SmoothAdversarialCompSumLoss

__all__ = [
    "CSQMI",
    "ALDRLoss",
    "AggregateResponseLoss",
    "CSIBLoss",
    "ClassificationLoss",
    "CompSumLoss",
    "ConditionalCSDivergenceLoss",
    "EnsLoss",
    "LDRLoss",
    "Loss",
    "NormalizedLogisticLoss",
    "RegressionLoss",
    "SmoothAdversarialCompSumLoss",
    "TargetClassificationMimicking",
    "h_consistency_transform",
]

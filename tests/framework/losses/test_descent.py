"""Whoever minimizes a loss over free predictions comes nearer to the targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import framework.losses
from framework.attacks.pgd import PGDAttack
from framework.losses import (
    CSQMI,
    AggregateResponseLoss,
    ALDRLoss,
    ClassificationLoss,
    CompSumLoss,
    CSIBLoss,
    EnsLoss,
    LDRLoss,
    Loss,
    RegressionLoss,
    RobustSelfTrainingLoss,
    SmoothAdversarialCompSumLoss,
    TargetClassificationMimicking,
)

STEPS = 700
ROWS, CLASSES = 24, 4
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(ROWS, 3, generator=GENERATOR)
NUMBERS = (INPUTS[:, 0] * INPUTS[:, 1]).tanh() + INPUTS[:, 2]
NUMBERS = (NUMBERS - NUMBERS.mean()) / NUMBERS.std()
LABELS = torch.arange(ROWS) % CLASSES
START = torch.randn(ROWS, CLASSES, generator=GENERATOR)
ATTACK = PGDAttack(eps=0.1, steps=1, clamp=None)

# losses without targets: what they ask of features or of unlabeled rows is another matter
WITHOUT_TARGETS = {CSQMI, TargetClassificationMimicking}
KINDS = {
    kind
    for kind in (getattr(framework.losses, name) for name in framework.losses.__all__)
    if isinstance(kind, type) and issubclass(kind, Loss)
} - {Loss, ClassificationLoss, RegressionLoss}
FREE = KINDS - WITHOUT_TARGETS - {RobustSelfTrainingLoss, SmoothAdversarialCompSumLoss}
BUILD: dict[str, Callable[[], Loss]] = {
    **{kind.__name__: kind for kind in sorted(FREE, key=lambda kind: kind.__name__)},
    "aggregate_bce": lambda: AggregateResponseLoss("bce"),
    "aggregate_ce": lambda: AggregateResponseLoss("ce"),
    "aldr_10": lambda: ALDRLoss(10.0),
    "comp_sum_0": lambda: CompSumLoss(0.0),
    "comp_sum_1.7": lambda: CompSumLoss(1.7, label_smoothing=0.1),
    "csib_mse": lambda: CSIBLoss(prediction="mse"),
    "csib_wide": lambda: CSIBLoss(sigma_x=1.0),
    "ensloss_ovr": lambda: EnsLoss(0.5, multiclass="ovr"),
    "ldr_10": lambda: LDRLoss(10.0),
    "ldr_l1": lambda: LDRLoss(10.0, normalize="l1"),
    "ldr_plain": lambda: LDRLoss(normalize=None),
    "robust_self_training": lambda: RobustSelfTrainingLoss(steps=0),
    "smooth_adversarial": lambda: SmoothAdversarialCompSumLoss(attack=ATTACK),
}


def test_every_loss_with_targets_is_tried_here() -> None:
    with_targets = {k for k in KINDS if issubclass(k, (ClassificationLoss, RegressionLoss))}
    assert KINDS - with_targets == WITHOUT_TARGETS
    assert {type(build()) for build in BUILD.values()} == with_targets


def targets_of(loss: Loss) -> tuple[Tensor, Tensor]:
    """Return where the predictions start, and the targets."""
    base = getattr(loss, "base", None)
    if base == "ce":
        return START, F.one_hot(LABELS, CLASSES).float()
    if isinstance(loss, RegressionLoss):
        return torch.zeros(ROWS), (NUMBERS > 0).float() if base == "bce" else NUMBERS
    return START, LABELS


def distance(loss: Loss, predictions: Tensor, targets: Tensor) -> float:
    """Return the root of the mean squared distance to the targets, of probabilities or numbers."""
    if predictions.ndim == 2:
        predictions = predictions.softmax(1)
        targets = F.one_hot(LABELS, CLASSES)
    elif getattr(loss, "base", None) == "bce":
        predictions = predictions.sigmoid()
    return float((predictions - targets).square().mean().sqrt())


VARIANTS = {"aldr_10", "comp_sum_0", "csib_mse", "csib_wide", "ensloss_ovr", "ldr_l1", "ldr_plain"}
NAMES = [
    pytest.param(name, marks=[pytest.mark.combination] if name in VARIANTS else [])
    for name in BUILD
]


@pytest.mark.parametrize("name", NAMES)
def test_free_predictions_come_nearer_to_the_targets(name: str) -> None:
    loss = BUILD[name]()
    loss.setup(ROWS, CLASSES, torch.device("cpu"))
    start, targets = targets_of(loss)
    predictions = start.clone().requires_grad_()
    # the kernels that are launched are what takes time: one for the whole step
    optimizer = torch.optim.Adam([predictions], lr=0.05, fused=True)
    for step in range(STEPS):
        available: dict[str, Any] = {
            "index": torch.arange(ROWS),
            "group": torch.arange(ROWS),
            "inputs": INPUTS if predictions.ndim == 1 else predictions.detach(),
            "features": predictions,
            "forward": torch.nn.Identity(),
            "epoch": step // 10,
            "step": step,
            "micro_batch": 0,
        }
        value = loss(predictions, targets, **{need: available[need] for need in loss.needs})
        (predictions.grad,) = torch.autograd.grad(value, predictions)
        optimizer.step()
    end = predictions.detach()
    assert distance(loss, end, targets) < 0.5 * distance(loss, start, targets)
    if end.ndim == 2:
        assert torch.equal(end.argmax(1), LABELS)

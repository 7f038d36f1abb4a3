"""Rows labeled -100 change neither what a classifier learns nor what it is scored on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from framework.losses import CompSumLoss
from framework.objectives.reduction import reduce_objectives
from modules.classifier.module import Classifier
from modules.coteaching.module import CoTeaching

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(12, 1, 8, 8, generator=GENERATOR), torch.arange(12) % 6
MARKED = LABELS.masked_fill(torch.arange(12) >= 8, -100)


def built(kind: Callable[..., Any], criterion: nn.Module, **options: Any) -> Any:
    torch.manual_seed(0)
    options |= {"num_classes": 6, "input_shape": (1, 8, 8), "widths": (8,)}
    return kind(criterion=criterion, **options)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss(), CompSumLoss(1.7)])
def test_the_loss_and_the_metrics_of_a_classifier(criterion: nn.Module) -> None:
    found = []
    module = built(Classifier, criterion).eval()
    for images, labels in ((IMAGES, MARKED), (IMAGES[:8], LABELS[:8])):
        metrics = module.make_metrics()
        with torch.no_grad():
            objectives = module.objectives({"image": images, "label": labels})
            for metric in metrics.values():
                metric.update(module(images).softmax(-1), labels)
        values = {name: metric.compute() for name, metric in metrics.items()}
        found.append(values | {"loss": reduce_objectives(objectives).total})
    assert set(found[0]) == {"accuracy", "accuracy_top5", "calibration_error", "confusion", "loss"}
    torch.testing.assert_close(found[0], found[1])


def test_co_teaching_does_not_choose_them() -> None:
    module = built(CoTeaching, nn.CrossEntropyLoss())
    even, odd = (module._candidates(MARKED, part) for part in module._parts(start=0))
    assert not (even | odd)[8:].any()
    assert (even | odd)[:8].all()

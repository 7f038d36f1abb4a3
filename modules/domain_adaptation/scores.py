"""Metrics of a classifier in two domains, with and without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from framework.adaptation.class_discriminators import SOURCE, TARGET
from framework.adaptation.mimicking_loss import MimickingLoss
from framework.data.datasets import Batch
from framework.metrics.embedding_sample import EmbeddingSample

SAMPLES = 500
DOMAINS = {"source": SOURCE, "target": TARGET}


class DomainScores(MetricCollection):
    """Metrics of a classifier in two domains; those of which no row is known are left out.

    ``confusion`` (K, K) and ``accuracy`` are of the target's rows with a label,
    ``accuracy_per_class`` is the mean of the accuracies of its classes, ``source_accuracy`` is of
    the source; ``discriminator_accuracy`` is the mean of its accuracies in both domains;
    ``guide_loss`` is of the held-out rows, see ``mimicking_loss``, and
    ``source_features`` and ``target_features`` are up to 500 rows of each.

    Args:
        num_features: Number F of features.
        num_classes: Number K of classes.
        discriminates: Whether a discriminator of the domains is measured, too.
    """

    def __init__(self, num_features: int, num_classes: int, discriminates: bool) -> None:
        metrics: dict[str, Any] = {
            "confusion": MulticlassConfusionMatrix(num_classes, ignore_index=-1),
            "source_confusion": MulticlassConfusionMatrix(num_classes, ignore_index=-1),
            "guide_loss": MimickingLoss(num_classes),
            "source_features": EmbeddingSample(num_features, SAMPLES),
            "target_features": EmbeddingSample(num_features, SAMPLES),
        }
        if discriminates:
            metrics["domain_confusion"] = MulticlassConfusionMatrix(2)
        # groups would tie states of different metrics together and break their separate reset
        super().__init__(metrics, compute_groups=False)

    def measure(
        self,
        batch: Batch,
        logits: Tensor,
        features: Tensor,
        held_out: Tensor,
        source_logit: Tensor | None,
    ) -> None:
        """Update the metrics with a batch.

        Args:
            batch: Batch with ``domain``, ``label`` and ``index``, (B,).
            logits: Logits (B, K).
            features: Features (B, F).
            held_out: Log-probabilities (N, K) of the held-out rows.
            source_logit: Log-odds (B,) of the discriminator; None without one.
        """
        domain, label, predicted = batch["domain"], batch["label"], logits.argmax(1)
        self["confusion"].update(predicted, label.where(domain == TARGET, -1))
        self["source_confusion"].update(predicted, label.where(domain == SOURCE, -1))
        add_features(self, batch, features)
        self["guide_loss"].update(held_out)
        if source_logit is not None:
            told = torch.where(source_logit > 0, SOURCE, TARGET)
            self["domain_confusion"].update(told, domain)

    def compute(self) -> dict[str, Any]:
        """Return the values by name."""
        values: dict[str, Any] = super().compute()
        known = {
            "accuracy": _accuracy(values["confusion"]),
            "accuracy_per_class": _mean_recall(values["confusion"]),
            "source_accuracy": _accuracy(values["source_confusion"]),
            "guide_loss": values.pop("guide_loss"),
        }
        if "domain_confusion" in values:
            known["discriminator_accuracy"] = _mean_recall(values["domain_confusion"])
        # that of no row is NaN
        return values | {name: value for name, value in known.items() if not value.isnan()}


def add_features(
    samples: Mapping[str, Any] | MetricCollection, batch: Batch, features: Tensor
) -> None:
    """Add a batch to the samples ``source_features`` and ``target_features``."""
    for name, side in DOMAINS.items():
        # a row without an index is none
        index = batch["index"].where(batch["domain"] == side, -1)
        samples[f"{name}_features"].update(features, batch["domain"], index, batch["label"])


def _accuracy(confusion: Tensor) -> Tensor:
    return confusion.diagonal().sum() / confusion.sum()


def _mean_recall(confusion: Tensor) -> Tensor:
    """Return the mean over the classes that there are."""
    rows = confusion.sum(1)
    return (confusion.diagonal() / rows)[rows > 0].mean()

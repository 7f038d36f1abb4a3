"""Image classification with features ordered by importance, against wrong labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MetricCollection

from framework.data.datasets import Batch
from framework.gradients.combiner import GradientCombiner
from framework.layers.nested_dropout import NestedDropout
from framework.metrics.prefix_accuracy import PrefixAccuracy, best_prefix
from framework.objectives.objectives import Objectives
from framework.ops.prefix import prefix_predictions
from modules.classifier.module import Classifier, Criterion
from modules.nested.network import NestedNetwork


class NestedClassifier(Classifier):
    """A classifier that trains random prefixes of its features and predicts from the best one.

    Wrong labels are memorized in features that nothing else needs. Nested dropout orders the
    channels by importance; each validation measures the accuracy of every prefix in one sweep and
    keeps the best, k*, for testing, for prediction and in the checkpoint. With wrong labels in
    the validation set too, k* is still right for symmetric noise, and biased for asymmetric noise.

    A batch holds ``image`` (B, C, H, W) float32, ``label`` (B,) int64 and ``index`` (B,).
    ``val/accuracy`` is that at the new k*, ``test/accuracy`` that at the stored one, and the
    accuracies of all prefixes, (D,), are in ``metric_values["prefix_accuracy"]``. ``val/loss`` is
    still that of the k* before, as it must be known before the sweep ends.

    Paper: Chen et al., *Compressing Features for Learning with Noisy Labels*, TNNLS 2022,
    arXiv:2206.13140, stage 1. As in the official code (yingyichen-cyy/Nested-Co-teaching) the head
    has no bias; unlike there, k* is never chosen on the test set.

    Args:
        num_classes: K.
        input_shape: (C, H, W) of an image.
        backbone: ``'mlp'``, ``'cnn'`` or any timm name, such as ``resnet18``.
        widths: of the layers of ``mlp`` or the stages of ``cnn``; timm backbones ignore it.
        pretrained: load timm's weights.
        sigma: of the nested dropout, about a fifth of the features' number; None for none, and
            then always all features are used.
        mu: center of the nested dropout's distribution.
        dropout: probability of ordinary dropout instead, as a baseline; needs ``sigma: null``.
        criterion: the loss on the logits.
        optimizer: from parameter groups to an optimizer.
        lr_scheduler: from an optimizer to a schedule.
        sync_batchnorm: share batch-norm statistics between ranks.
        gradient_combiner: how the gradients of several terms become one.

    Raises:
        ValueError: both kinds of dropout, a probability outside [0, 1), or see
            ``Classifier``.

    Example:
        >>> import torch
        >>> from modules import NestedClassifier
        >>> model = NestedClassifier(num_classes=10, input_shape=(1, 8, 8), sigma=50.0)
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: Sequence[int] = (1, 8, 8),
        backbone: str = "mlp",
        widths: Sequence[int] = (256, 256),
        pretrained: bool = False,
        sigma: float | None = 50.0,
        mu: float = 0.0,
        dropout: float = 0.0,
        criterion: Criterion | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        sync_batchnorm: bool = True,
        gradient_combiner: GradientCombiner | None = None,
    ) -> None:
        super().__init__(
            num_classes,
            input_shape,
            backbone,
            widths,
            pretrained,
            criterion,
            optimizer,
            lr_scheduler,
            sync_batchnorm,
            gradient_combiner,
        )
        self.network: NestedNetwork = NestedNetwork(self.network, sigma, mu, dropout)

    @property
    def networks(self) -> list[NestedNetwork]:
        """The networks whose mean logits are the prediction."""
        return [self.network]

    @property
    def eval_k(self) -> int:
        """Channels used in evaluation."""
        return self.network.eval_k

    def evaluate(self, batch: Batch) -> Objectives:
        """Count the rows that every prefix classifies correctly, and return the loss."""
        objectives = self.objectives(batch)
        assert objectives.features is not None
        self.count_prefixes([objectives.features], batch["label"])
        return objectives

    def count_prefixes(self, features: list[Tensor], label: Tensor) -> None:
        """Update ``prefix_accuracy`` with the features (B, D) of each network."""
        weights = [network.head.weight for network in self.networks]
        self.metrics["prefix_accuracy"].update(prefix_predictions(features, weights), label)

    def make_metrics(self) -> MetricCollection:
        """Return the accuracy of every prefix."""
        channels = self.network.head.in_features
        return MetricCollection({"prefix_accuracy": PrefixAccuracy(channels)})

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, choose k*, and log the accuracy at it."""
        super().on_validation_epoch_end()
        # the few batches of a sanity check say nothing about k*
        if not self.trainer.sanity_checking:
            self._choose_prefix()
        self._log_accuracy()
        self.log("val/best_prefix", float(self.eval_k))

    def on_test_epoch_end(self) -> None:
        """Log the metrics and the accuracy at the k* that validation chose."""
        super().on_test_epoch_end()
        self._log_accuracy()

    def _choose_prefix(self) -> None:
        for network in self.networks:
            # the channels of a network without nested dropout have no order
            if isinstance(network.dropout, NestedDropout):
                network.dropout.eval_k = best_prefix(self.metric_values["prefix_accuracy"])

    def _log_accuracy(self) -> None:
        accuracy = self.metric_values["prefix_accuracy"][self.eval_k - 1]
        self.metric_values["accuracy"] = accuracy
        self.log(f"{self.stage}/accuracy", accuracy)

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the accuracy of every prefix."""
        from modules.nested.figure import prefix_accuracy_curves

        curves = {"one network": values["prefix_accuracy"].cpu()}
        return {"prefix_accuracy": prefix_accuracy_curves(curves, self.eval_k)}

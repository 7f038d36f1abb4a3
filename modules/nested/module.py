"""Image classification with features ordered by importance, against wrong labels."""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

from torch import Tensor

from framework.data.datasets import Batch
from framework.figures.score_table import Table
from framework.layers.nested_dropout import NestedDropout
from framework.metrics.prefix_accuracy import PrefixAccuracy, best_prefix
from framework.objectives.objectives import Objectives
from framework.ops.prefix import prefix_predictions
from framework.runs.panels import Panel
from modules.classifier.module import Classifier, ClassifierOptions
from modules.nested.network import NestedNetwork


class NestedOptions(ClassifierOptions, total=False):
    """Arguments of ``NestedClassifier``, for modules that build on it."""

    sigma: float | None
    mu: float
    dropout: float


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
        sigma: Standard deviation of the nested dropout, about a fifth of the number of features;
            None for no nested dropout, and then all features are always used.
        mu: Center of the nested dropout's distribution.
        dropout: Probability of ordinary dropout instead, as a baseline; needs ``sigma: null``.
        **options: Arguments of ``Classifier``.

    Raises:
        ValueError: Both kinds of dropout are used, a probability is outside [0, 1), or as
            ``Classifier``.

    Example:
        >>> import torch
        >>> from modules import NestedClassifier
        >>> model = NestedClassifier(num_classes=10, input_shape=(1, 8, 8), sigma=50.0)
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
    """

    panels: tuple[Panel, ...] = (
        *Classifier.panels,
        Panel("Features that are used", ("best_prefix",), "features"),
    )

    def __init__(
        self,
        *,
        sigma: float | None = 50.0,
        mu: float = 0.0,
        dropout: float = 0.0,
        **options: Unpack[ClassifierOptions],
    ) -> None:
        super().__init__(**options)
        self.nest = partial(NestedNetwork, sigma=sigma, mu=mu, dropout=dropout)
        """Puts dropout between the body and the head of a network."""
        self.network: NestedNetwork = self.nest(self.network)

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

    def make_metrics(self) -> dict[str, Any]:
        """Return the accuracy of every prefix."""
        return {"prefix_accuracy": PrefixAccuracy(self.network.head.in_features)}

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

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return nothing: the classes are not told apart."""
        return {}

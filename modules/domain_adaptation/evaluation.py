"""Evaluation of a classifier in two domains: metrics, features before and now, predictions."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from framework.adaptation.class_discriminators import SOURCE
from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.layers.gradient_reversal import ReversalSchedule
from framework.metrics.embedding_sample import EmbeddingSample, EmbeddingSnapshot
from framework.objectives.objectives import Objectives
from framework.runs.panels import STEP, Panel
from framework.training.dataset_pass import visit
from modules.classifier.module import Classifier
from modules.domain_adaptation.alignment import Aligned, Alignment
from modules.domain_adaptation.network import AdaptationNetwork
from modules.domain_adaptation.scores import DOMAINS, SAMPLES, DomainScores, add_features


class DomainEvaluation(Classifier):
    """Evaluates a network on rows of two domains, and remembers how their features once lay.

    Attributes:
        network: Network that gives logits and features.
        alignment: Alignment of the features; None for none.
        reversal: Coefficient of the alignment's gradient reversal.
        before: Features of validation samples before the first step, of the source and of the
            target.
    """

    network: AdaptationNetwork
    alignment: Alignment | None
    reversal: ReversalSchedule
    before: list[EmbeddingSnapshot] | None = None
    panels: tuple[Panel, ...] = (
        Panel(
            "Accuracy on the target",
            ("accuracy", "accuracy_per_class"),
            "share of the samples",
            best="max",
        ),
        Panel("Accuracy on the source", ("source_accuracy",), "share of the samples", best="max"),
        # at one half it cannot tell the domains apart
        Panel("Accuracy of the discriminator", ("discriminator_accuracy",), "share of the samples"),
        Panel(
            "Accuracy of the discriminator, by step",
            ("train/discriminator_accuracy",),
            "share of the samples",
            axis=STEP,
        ),
        Panel("Loss of the guide", ("guide_loss",)),
    )

    def setup(self, stage: str) -> None:
        """Forget an earlier run; a checkpoint is restored only later."""
        super().setup(stage)
        if stage == "fit":
            self.before = None

    def on_fit_start(self) -> None:
        """Keep how the features of the validation samples lie before the first step."""
        super().on_fit_start()
        trainer = self.trainer
        data = self.datamodule
        if self.before is not None or not isinstance(data, DataModule):
            return
        loader, limit = data.val_dataloader(), trainer.limit_val_batches
        batches = limit if isinstance(limit, int) else int(limit * len(loader))
        if not min(batches, len(loader)):
            return
        samples = {
            f"{name}_features": EmbeddingSample(self.network.num_features, SAMPLES).to(self.device)
            for name in DOMAINS
        }

        def look(batch: Batch) -> None:
            add_features(samples, batch, self.network(batch["image"])[1])

        visit(self, islice(loader, batches), look)
        self.before = [sample.compute() for sample in samples.values()]

    def source_objectives(
        self, batch: Batch, logits: Tensor, features: Tensor | None
    ) -> Objectives:
        """Return the term ``classification`` of the source rows alone."""
        # positions, as a GPU is waited for at each use of a mask
        source = (batch["domain"] == SOURCE).nonzero().squeeze(1)
        fields = (logits, batch["label"], batch.get("index"), features)
        predictions, targets, index, known = (x if x is None else x[source] for x in fields)
        of_source = Objectives(
            predictions=predictions, targets=targets, index=index, features=known
        )
        self.add_term(of_source, "classification", self.criterion, inputs=batch["image"][source])
        return of_source

    def check_labels(self, batch: Batch) -> None:
        """Raise ``ValueError`` if a label of the source is no class."""
        super().check_labels({"label": batch["label"][batch["domain"] == SOURCE]})

    def align(self, batch: Batch, logits: Tensor, features: Tensor) -> Aligned | None:
        """Return the alignment's output for a batch; None without an alignment."""
        if self.alignment is None:
            return None
        return self.alignment(features, logits, batch["domain"], self.reversal(self.global_step))

    def make_metrics(self) -> DomainScores:
        """Return the metrics of both domains."""
        discriminates = self.alignment is not None and self.alignment.discriminates
        return DomainScores(self.network.num_features, self.num_classes, discriminates)

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the loss of the source rows."""
        logits, features = self.network(batch["image"])
        aligned = self.align(batch, logits, features)
        held_out = batch.get("held_out", torch.zeros_like(batch["domain"], dtype=torch.bool))
        scores: Any = self.metrics
        scores.measure(
            batch,
            logits,
            features,
            self.network.refined(features)[0][held_out],
            None if aligned is None else aligned.source_logit,
        )
        return self.source_objectives(batch, logits, features)

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted class, the probability of every class and, if known, the domain."""
        known = {"domain": batch["domain"]} if "domain" in batch else {}
        return super().predict_columns(batch) | known

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the features of both domains and, where labels are known, the confusion matrix."""
        from modules.domain_adaptation.figures import adaptation_figures

        names = self.names_of_classes()
        fitting = self.trainer.state.fn == "fit"
        steps = (
            f"after {self.trainer.global_step:,} steps"
            if fitting
            else f"{'test' if stage == 'test' else 'validation'} samples"
        )
        return adaptation_figures(values, self.before if fitting else None, steps, names)

    # ---- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the features before the first step."""
        super().on_save_checkpoint(checkpoint)
        if self.before is not None:
            checkpoint["features_before"] = [[x.cpu() for x in codes] for codes in self.before]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what ``on_save_checkpoint`` added."""
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint.get("features_before")
        self.before = None if kept is None else [EmbeddingSnapshot(*codes) for codes in kept]

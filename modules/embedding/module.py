"""Metric learning: embeddings of images in which classes that were never seen stay apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Unpack, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from framework.data.datasets import Batch
from framework.distributed.collectives import rank, shared_generator, world_size
from framework.embedding.backbones.build import build_backbone
from framework.embedding.generic_pair_loss import GenericPairLoss
from framework.embedding.heads.cosine_head import CosineHead
from framework.embedding.heads.head import ClassificationHead
from framework.embedding.heads.normface import NormFaceHead
from framework.embedding.metrics.embedding_evaluation import EmbeddingEvaluation
from framework.embedding.metrix import Metrix
from framework.embedding.unpg import UNPG
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.runs.panels import STEP, Panel
from framework.training.compatibility import check_fact
from framework.training.module import TrainingModule, TrainingOptions
from framework.training.terms import check_classes
from framework.utilities.checks import check_one_of
from framework.utilities.lightning_internals import micro_batch_of, trainer_of
from framework.utilities.randomness import global_seed

HeadCallable = Callable[[int, int], ClassificationHead]
"""Makes a head from the width of an embedding and the number of classes."""

Flip = Literal["none", "sum", "concat"]


class MetricLearnerOptions(TrainingOptions, total=False):
    """Arguments of ``MetricLearner``, for modules that build on it."""

    num_classes: int | None
    input_shape: Sequence[int] | None
    dropout: float
    pretrained: bool
    checkpointing: bool
    negatives: UNPG | None
    criterion: GenericPairLoss | None
    mixing: Metrix | None
    sharded: bool
    far: Sequence[float]


class MetricLearner(TrainingModule):
    """Learns an embedding by classification, by pairs, or by both, and compares unseen classes.

    A batch holds ``image`` (B, C, H, W) float32, ``label`` (B,) int64, and ``index`` (B,). Up to
    three terms train the network from images to embeddings (B, D), which are not normalized:

    ``classification``
        the head's, with the negatives of ``negatives`` in its denominator,
    ``pairs``
        the criterion's, on pairs of the global batch,
    ``mixed``
        the criterion's on mixed examples, with the weight that ``mixing`` has.

    The classes of validation and test are others than those of training, so there is no loss of
    them. Every image is embedded once, and what the data says of pairs, or else all pairs of
    different images, is verified by cosine; labels give retrieval scores, of each image among all
    others, or where a batch holds ``is_query`` (B,) bool, of queries in the gallery of the others.

    Args:
        num_classes: Number K of training classes; in a run default that of the data.
        input_shape: Shape (C, H, W) of an image; in a run default that of the data.
        backbone: Backbone: ``'iresnet18'`` to ``'iresnet200'``, ``'iresnet_tiny'``,
            ``'mobilefacenet'``, ``'conv4'``, ``'conv4_32'``, ``'mlp'`` or any timm name.
        embedding_dim: Width D of an embedding.
        dropout: Probability of dropout before the last linear layer.
        pretrained: Whether to load timm's weights.
        checkpointing: Whether blocks are computed again in the backward pass, which saves memory.
        head: Head that classifies embeddings in training; None for none.
        negatives: Further negatives of the head, from the pairs of a batch.
        criterion: Loss on pairs of embeddings.
        mixing: Mixed examples for the criterion.
        sharded: Whether each rank holds the weights of a part of the classes.
        flip: What an image is evaluated by: itself, the sum of the embeddings of it and its mirror
            image, or both one after the other.
        far: False acceptance rates at which the true acceptance rate is reported.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: ``num_classes`` or ``input_shape`` is None where nothing fills it; there is
            neither a head nor a criterion; ``negatives`` without a head of a softmax, or ``mixing``
            without a criterion; the backbone is unknown.

    Example:
        >>> import torch
        >>> from modules.embedding import MetricLearner
        >>> model = MetricLearner(num_classes=10, input_shape=(1, 28, 28), embedding_dim=32)
        >>> tuple(model(torch.zeros(2, 1, 28, 28)).shape)
        (2, 32)
    """

    arguments_from_data: Mapping[str, str] = {
        "num_classes": "num_classes",
        "input_shape": "input_shape",
    }
    panels: tuple[Panel, ...] = (
        Panel("Verification", ("*/acc",), "share of the pairs", best="max"),
        Panel("True acceptance rate", ("*tar@far*",), "share of the pairs", best="max"),
        Panel("Retrieval", ("recall@*", "r_precision", "map@r"), "share", best="max"),
        Panel("Cosine of the own class", ("train/target_cosine",), "cosine", axis=STEP),
    )
    required_fields: tuple[str, ...] = ("image", "label")
    tuple_fields: tuple[str, ...] = ("image", "label")
    embedding_column = "embedding"
    provides: tuple[str, ...] = ("per_sample", "predictions", "targets", "index", "features")

    def __init__(
        self,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        backbone: str = "conv4",
        embedding_dim: int = 64,
        dropout: float = 0.0,
        pretrained: bool = False,
        checkpointing: bool = False,
        head: HeadCallable | None = NormFaceHead,
        negatives: UNPG | None = None,
        criterion: GenericPairLoss | None = None,
        mixing: Metrix | None = None,
        sharded: bool = False,
        flip: Flip = "none",
        far: Sequence[float] = (1e-2, 1e-3),
        optimizer: OptimizerCallable = torch.optim.AdamW,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if num_classes is None or input_shape is None:
            raise ValueError(
                "Neither an argument nor the data says what is to be embedded: set "
                "model.num_classes and model.input_shape, or in Python use "
                f"{type(self).__name__}.for_data(data)."
            )
        check_one_of(get_args(Flip), flip=flip)
        if head is None and criterion is None:
            raise ValueError("Nothing trains the embedding: give model.head or model.criterion.")
        if mixing is not None and criterion is None:
            raise ValueError("model.mixing mixes examples of pairs: give model.criterion, too.")
        if mixing is not None and criterion is not None:
            mixing.check(criterion)
        self.num_classes = num_classes
        self.prediction_shape = (num_classes,)
        self.input_shape = tuple(input_shape)
        self.embedding_dim = embedding_dim
        self.flip = flip
        self.sharded = sharded
        self.network = build_backbone(
            backbone,
            self.input_shape,
            embedding_dim,
            dropout=dropout,
            pretrained=pretrained,
            checkpointing=checkpointing,
        )
        self.head = None if head is None else head(embedding_dim, num_classes)
        if self.head is not None:
            self.head.reduction = "none"
        self._check_parts(negatives)
        self.negatives = negatives
        self.criterion = criterion
        self.mixing = mixing
        self.far = tuple(far)
        absent = {"predictions"} if self.head is None or sharded else set()
        if mixing is not None and mixing.mode != "embedding":
            absent.add("features")  # mixed images are no function of them
        self.provides = tuple(name for name in self.provides if name not in absent)
        self._possible = self.provides

    def _check_parts(self, negatives: UNPG | None) -> None:
        head = self.head
        if self.sharded and head is None:
            raise ValueError("model.sharded divides the classes of a head: give model.head.")
        if negatives is not None and (head is None or not head.takes_negatives):
            name = "none" if head is None else type(head).__name__
            raise ValueError(
                "model.negatives go into the denominator of a softmax, which model.head, "
                f"{name}, has not: set model.negatives to null, or take another head."
            )

    def setup(self, stage: str) -> None:
        """Check that the data has the model's input shape and classes, and divide the head."""
        check_fact(self.datamodule, "input_shape", self.input_shape)
        if stage == "fit":
            check_fact(self.datamodule, "num_classes", self.num_classes)
        head = self.head
        if self.sharded and head is not None and world_size() > 1 and not head.part.sharded:
            head.shard(rank(), world_size())
        self.provides = self._possible
        super().setup(stage)
        if not any("predictions" in owner.needs for owner in self._owners):
            # the logits of all classes, which nothing else asks for
            self.provides = tuple(name for name in self.provides if name != "predictions")

    def check_numbers(self, batch: Batch) -> None:
        """Refuse a training label that is no class."""
        super().check_numbers(batch)
        trainer = trainer_of(self)
        if trainer is not None and trainer.training:
            check_classes(batch["label"], self.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings (B, D), not normalized."""
        return self.network(image)

    def predictions_of(self, output: Tensor) -> Tensor:
        """Return the head's logits (B, K) of embeddings (B, D); the embeddings without a head."""
        return output if self.head is None else self.head.logits(output)

    def embed(self, image: Tensor) -> Tensor:
        """Return what an image is evaluated by, (B, D) or, with ``flip='concat'``, (B, 2 D)."""
        embedding = self(image)
        if self.flip == "none":
            return embedding
        mirrored = self(image.flip(-1))
        return embedding + mirrored if self.flip == "sum" else torch.cat([embedding, mirrored], 1)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms ``classification``, ``pairs`` and ``mixed``, those there are."""
        image, label = batch["image"], batch["label"]
        if image.ndim != 4:
            raise IncompatibleError(
                f"{type(self).__name__} takes images (B, C, H, W), and a batch of this data holds "
                f"{tuple(image.shape)}; episodes are for PrototypicalNetwork."
            )
        mixed = None
        if self.mixing is None:
            embedding = self(image)
        else:
            part = micro_batch_of(trainer_of(self))
            generator = shared_generator(
                global_seed(), self.global_step, "metrix", micro_batch=part
            )
            mixed = self.mixing.embed(self.network, image, label, generator)
            embedding = mixed.embeddings
        objectives = Objectives(targets=label, index=batch.get("index"), features=embedding)
        if self.head is not None:
            self._add_classification(objectives, self.head, embedding, label)
        if self.criterion is not None:
            self.add_term(objectives, "pairs", self.criterion, embedding, label)
            if self.mixing is not None and mixed is not None:
                values, logs = self.mixing.loss(self.criterion, mixed)
                objectives.per_sample["mixed"] = values
                objectives.weights["mixed"] = self.mixing.weight
                objectives.logs |= logs
        return objectives

    def _add_classification(
        self,
        objectives: Objectives,
        head: ClassificationHead,
        embedding: Tensor,
        label: Tensor,
    ) -> None:
        negatives = None
        if self.negatives is not None:
            # that of the head may be learned
            scale = head.lengths(embedding) if isinstance(head, CosineHead) else 1.0
            negatives, logs = self.negatives(embedding, label, scale)
            objectives.logs |= logs
        values, logs = head(embedding, label, negatives)
        objectives.per_sample["classification"] = values
        objectives.logs |= logs
        if "predictions" in self.provides:
            objectives.predictions = head.logits(embedding)

    def evaluate(self, batch: Batch) -> None:
        """Collect the embeddings of a batch."""
        index = batch.get("index")
        if index is None:
            raise IncompatibleError(
                "Images are compared with one another, so the batches of validation and test need "
                "`index`, the position of each image in its set."
            )
        embedding = self.embed(batch["image"])
        self.metrics["embedding"].update(embedding, batch["label"], index, batch.get("is_query"))

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the comparison of all images."""
        width = self.embedding_dim * (2 if self.flip == "concat" else 1)
        return {"embedding": EmbeddingEvaluation(width, far=self.far)}

    def on_validation_epoch_start(self) -> None:
        """Look up which pairs are compared."""
        pairs = getattr(self.datamodule, "pairs", None)
        self.metrics["embedding"].pairs = {} if pairs is None else pairs(self.stage)

    def on_test_epoch_start(self) -> None:
        """Look up which pairs are compared."""
        self.on_validation_epoch_start()

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the embedding of every image."""
        return {"embedding": self.embed(batch["image"]).float()}

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return ROC curves, similarities of pairs, and the nearest neighbors of some images."""
        from framework.embedding.figures.evaluation import evaluation_figures

        return evaluation_figures(values, self._pictures(stage))

    def _pictures(self, stage: str) -> Callable[[int], Tensor] | None:
        """Return what gives an evaluated image in [0, 1], where the data has it by position."""
        data = self.datamodule
        dataset = getattr(data, f"{stage}_set", None)
        if dataset is None:
            return None
        scale = getattr(data, "normalize", None)

        def picture(row: int) -> Tensor:
            image = dataset[row]["image"]
            return (image if scale is None else scale.undo(image)).clamp(0, 1)

        return picture

"""Classification with classes that are added after the training, by a few examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.distributed.tensor import DTensor

from framework.data.datasets import Batch
from framework.embedding.heads.hyperspherical import HypersphericalHead
from framework.embedding.imprinted_evaluation import ImprintedEvaluation
from framework.embedding.imprinting import ImprintedClassifier
from framework.objectives.errors import IncompatibleError
from framework.runs.panels import STEP, Panel
from framework.utilities.checks import check_at_least, check_one_of
from framework.utilities.lightning_internals import trainer_of
from modules.embedding.module import HeadCallable, MetricLearner, MetricLearnerOptions


class NovelClassClassifier(MetricLearner):
    """Trains a classifier of angles, and adds classes by the mean direction of their examples.

    Training batches are those of ``MetricLearner``. Batches of validation and test also hold
    ``shot`` (B,) int64: the number 1, 2, ... of a support, which is an example of a novel class,
    within its class, and 0 for a query, see ``NovelClasses``. Each validation and test adds the
    novel classes anew by their first K supports and classifies the queries. Shares of right ones,
    for each K: ``disjoint@K``, of novel queries among novel classes alone; ``joint@K``, of all
    queries among all classes; ``joint_on_novel@K`` and ``joint_on_base@K``, of the queries of
    either kind among all; and ``harmonic_mean@K`` of these two.

    In Python, ``imprinted()`` returns a classifier of the trained classes that takes further ones.

    Paper: Pereira et al., Hyperspherical embedding for novel class classification.
    arXiv:2102.03243

    The remaining arguments are those of ``MetricLearner``.

    Args:
        shots: Numbers K of supports of a novel class; the first K count.
        backbone: Backbone: ``'iresnet18'`` to ``'iresnet200'``, ``'iresnet_tiny'``,
            ``'mobilefacenet'``, ``'conv4'``, ``'mlp'`` or any timm name.
        embedding_dim: Width D of an embedding.
        head: Head that classifies embeddings in training.
        flip: What an image is evaluated by: itself, or the sum of the embeddings of it and its
            mirror image.
        optimizer: Optimizer of the parameters.
        **options: Further arguments of ``MetricLearner``.

    Raises:
        ValueError: As ``MetricLearner``; or there is no head, or one without a vector of each
            class whole on every rank; or ``flip`` is neither.
        IncompatibleError: The data has fewer supports, or nothing projects a head that asks for it
            (at ``setup``).

    Example:
        >>> import torch
        >>> from modules.embedding import NovelClassClassifier
        >>> model = NovelClassClassifier(
        ...     num_classes=7, input_shape=(1, 8, 8), backbone="mlp", embedding_dim=32
        ... ).eval()
        >>> classifier = model.imprinted()
        >>> classifier.add_class(model(torch.rand(5, 1, 8, 8)), "seven")
        7
    """

    panels: tuple[Panel, ...] = (
        Panel("Queries of all classes", ("joint@*",), "share that is right", best="max"),
        Panel(
            "Queries of novel classes", ("joint_on_novel@*", "disjoint@*"), "share that is right"
        ),
        Panel("Queries of trained classes", ("joint_on_base@*",), "share that is right"),
        Panel("Cosine of the target", ("train/target_cosine",), "cosine", axis=STEP),
    )

    def __init__(
        self,
        shots: Sequence[int] = (1, 5),
        backbone: str = "conv4",
        embedding_dim: int = 64,
        head: HeadCallable = HypersphericalHead,
        flip: Literal["none", "sum"] = "none",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        **options: Unpack[MetricLearnerOptions],
    ) -> None:
        super().__init__(
            backbone=backbone,
            embedding_dim=embedding_dim,
            head=head,
            flip=flip,
            optimizer=optimizer,
            **options,
        )
        check_at_least(1, shots=min(shots, default=0))
        if self.head is None or self.head.centers > 1 or self.sharded:
            raise ValueError(
                "Novel classes are put beside the vectors of the trained ones: give model.head one "
                "vector for each class, and leave model.sharded false."
            )
        check_one_of(("none", "sum"), flip=flip)
        self.shots = tuple(shots)

    def setup(self, stage: str) -> None:
        """Check that the data has as many supports, and that a projected head is projected."""
        supports = getattr(self.datamodule, "shots", None)
        if supports is not None and supports < max(self.shots):
            raise IncompatibleError(
                f"The data has {supports} supports of each novel class, fewer than model.shots="
                f"{list(self.shots)}: raise data.shots."
            )
        trainer = trainer_of(self)
        callbacks = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
        projected = getattr(self.head, "constraint", None) == "project"
        if stage == "fit" and projected and not any(hasattr(c, "projects") for c in callbacks):
            raise IncompatibleError(
                "model.head has the constraint 'project': add the callback UnitNormProjection."
            )
        super().setup(stage)

    @property
    def class_vectors(self) -> Tensor:
        """Vectors of the trained classes, (C, D), of any norm, without gradient.

        Where ranks hold parts of the parameters it is a collective call.
        """
        assert self.head is not None
        vectors = self.head.weight.detach()
        return vectors.full_tensor() if isinstance(vectors, DTensor) else vectors

    def imprinted(self) -> ImprintedClassifier:
        """Return a classifier of the trained classes, to which others can be added."""
        return ImprintedClassifier(self.class_vectors, getattr(self.head, "scale", 1.0))

    def evaluate(self, batch: Batch) -> None:
        """Collect the embeddings of supports and queries."""
        missing = [name for name in ("index", "shot") if name not in batch]
        if missing:
            raise IncompatibleError(
                f"The batches of validation and test lack {missing[0]!r}: novel classes need "
                "supports, which data.class_path NovelClasses chooses."
            )
        embedding = self.embed(batch["image"])
        self.metrics["novel"].update(embedding, batch["label"], batch["index"], batch["shot"])

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the classification of the queries."""
        return {"novel": ImprintedEvaluation(self.embedding_dim, self.shots)}

    def on_validation_epoch_start(self) -> None:
        """Take the vectors of the trained classes."""
        self.metrics["novel"].base_weight = self.class_vectors

    def on_test_epoch_start(self) -> None:
        """Take the vectors of the trained classes."""
        self.on_validation_epoch_start()

"""Prototypical networks: classes learned from a few images, by the mean of their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from framework.data.datasets import Batch
from framework.embedding.backbones.build import build_backbone
from framework.embedding.icnn import ICNNLoss
from framework.embedding.metrics.few_shot import FewShotAccuracy
from framework.embedding.metrics.icnn_score import ICNNScore
from framework.embedding.proto_triplet import ProtoTripletLoss
from framework.embedding.prototypes import class_prototypes, prototype_logits
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.training.compatibility import check_fact
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.checks import check_at_least, check_one_of, check_positive

Term = Literal["cross_entropy", "proto_triplet", "icnn_support", "icnn_query", "icnn_full"]
TERMS: tuple[Term, ...] = (
    "cross_entropy",
    "proto_triplet",
    "icnn_support",
    "icnn_query",
    "icnn_full",
)


class Embedded(NamedTuple):
    """Embeddings of E episodes of N classes with K supports, and Q queries in all.

    Args:
        support: Embeddings of the supports (E, N K, d), class by class.
        support_label: Their classes (E, N K) int64.
        query: Embeddings of the queries (E, Q, d).
        query_label: Their classes (E, Q) int64.
        prototypes: Mean of every class's supports (E, N, d).
        shots: Supports K of a class.
    """

    support: Tensor
    support_label: Tensor
    query: Tensor
    query_label: Tensor
    prototypes: Tensor
    shots: int


class PrototypicalNetwork(TrainingModule):
    """Classifies queries by the nearest mean of the supports of a class, in a learned space.

    A batch holds E episodes of ``EpisodeSet``: ``image`` (E, N (K + Q), C, H, W), first the
    supports class by class, ``label`` (E, N (K + Q)) in 0..N-1, ``support`` (E, N, K), whose shape
    says what an episode is, and ``index`` (E,). Logits of a query are
    -|q - c_n|^2 / T. The loss of an episode is the mean of its terms: cross-entropy of the queries,
    ``ProtoTripletLoss``, and ``ICNNLoss`` of the supports, of the queries among the supports, or of
    both together. Of one support a class, ``icnn_support`` says nothing.

    Evaluated are the mean accuracy over episodes with its 95 % interval and the ICNN score of all
    images of an episode.

    Paper: Snell, Swersky, Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017,
    arXiv:1703.05175; Mendez-Ruiz et al., SuSana Distancia is all you need, 2023, arXiv:2305.09062.

    Args:
        input_shape: Shape (C, H, W) of an image; in a run default that of the data.
        backbone: Backbone by its name, such as ``'conv4'``, ``'mlp'`` or any timm name.
        embedding_dim: Width d of an embedding; by default, of ``conv4`` only, that of its maps.
        terms: Terms of the loss, of which the mean is taken: ``cross_entropy``, ``proto_triplet``,
            ``icnn_support``, ``icnn_query``, ``icnn_full``.
        temperature: Temperature T of the logits.
        margin: Margin of ``proto_triplet``, in the unit of distances.
        neighbors: Number k of neighbors in the ICNN score and in the terms made of it.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: ``input_shape`` is None where nothing fills it, there is no term or one twice,
            or an argument is out of its range; or the data has another shape (at ``setup``).

    Example:
        >>> import torch
        >>> from modules.embedding import PrototypicalNetwork
        >>> model = PrototypicalNetwork(input_shape=(1, 28, 28), embedding_dim=16)
        >>> tuple(model(torch.zeros(2, 1, 28, 28)).shape)
        (2, 16)
    """

    arguments_from_data: Mapping[str, str] = {"input_shape": "input_shape"}
    panels: tuple[Panel, ...] = (
        Panel("Accuracy", ("accuracy",), "share of the queries", best="max"),
        Panel("ICNN score", ("icnn_score",), "score of neighborhoods", best="max"),
    )
    required_fields: tuple[str, ...] = ("image", "label", "support")
    provides: tuple[str, ...] = ("per_sample", "index")

    def __init__(
        self,
        input_shape: Sequence[int] | None = None,
        backbone: str = "conv4",
        embedding_dim: int | None = None,
        terms: Sequence[Term] = ("cross_entropy", "proto_triplet", "icnn_full"),
        temperature: float = 1.0,
        margin: float = 0.5,
        neighbors: int = 4,
        optimizer: OptimizerCallable = torch.optim.Adam,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if input_shape is None:
            raise ValueError(
                "Neither an argument nor the data says what an image is: set model.input_shape, or "
                f"in Python use {type(self).__name__}.for_data(data)."
            )
        check_positive(temperature=temperature)
        check_at_least(1, neighbors=neighbors)
        for term in terms:
            check_one_of(TERMS, terms=term)
        if not terms or len(set(terms)) < len(terms):
            raise ValueError(
                f"terms must have each of {', '.join(TERMS)} at most once, and one at least; got "
                f"{list(terms)}."
            )
        self.input_shape = tuple(input_shape)
        self.terms = tuple(terms)
        self.temperature = temperature
        self.neighbors = neighbors
        self.backbone = build_backbone(backbone, self.input_shape, embedding_dim)
        self.proto_triplet = ProtoTripletLoss(margin)
        self.icnn = ICNNLoss(neighbors)

    def setup(self, stage: str) -> None:
        """Check that the data has the model's input shape."""
        check_fact(self.datamodule, "input_shape", self.input_shape)
        super().setup(stage)

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings (B, d) of images (B, C, H, W)."""
        return self.backbone(image)

    def forward_inputs(self, batch: Batch) -> tuple[Tensor]:
        """Return the images of all episodes, (E N (K + Q), C, H, W)."""
        return (batch["image"].flatten(0, 1),)

    def embed(self, batch: Batch) -> Embedded:
        """Return the embeddings of the images of episodes."""
        image, label = batch["image"], batch["label"]
        # shapes alone, which no GPU is waited for
        number, size = image.shape[:2]
        ways, shots = batch["support"].shape[1:]
        embedding = self.backbone(image.flatten(0, 1)).unflatten(0, (number, size))
        support, query = embedding.split([ways * shots, size - ways * shots], dim=1)
        support_label, query_label = label.split([ways * shots, size - ways * shots], dim=1)
        prototypes = class_prototypes(support.unflatten(1, (ways, shots)))
        return Embedded(support, support_label, query, query_label, prototypes, shots)

    def objectives(self, batch: Batch) -> Objectives:
        """Return one value per episode of every term."""
        return self._objectives(self.embed(batch), batch)

    def _objectives(self, found: Embedded, batch: Batch) -> Objectives:
        values: dict[str, Tensor] = {term: getattr(self, f"_{term}")(found) for term in self.terms}
        return Objectives(
            per_sample=values,
            weights=dict.fromkeys(values, 1 / len(values)),
            index=batch.get("index"),
        )

    def _logits(self, found: Embedded) -> Tensor:
        return prototype_logits(found.query, found.prototypes, self.temperature)

    def _cross_entropy(self, found: Embedded) -> Tensor:
        logits, label = self._logits(found).flatten(0, 1), found.query_label.flatten()
        values = F.cross_entropy(logits, label, reduction="none")
        return values.unflatten(0, found.query_label.shape).mean(1)

    def _proto_triplet(self, found: Embedded) -> Tensor:
        return self.proto_triplet(found.query, found.query_label, found.prototypes)

    def _icnn_support(self, found: Embedded) -> Tensor:
        return self.icnn(found.support, found.support_label)

    def _icnn_query(self, found: Embedded) -> Tensor:
        return self.icnn(found.query, found.query_label, found.support, found.support_label)

    def _icnn_full(self, found: Embedded) -> Tensor:
        return self.icnn(*_all(found), neighborhood=_images_of_a_class(found))

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the loss."""
        found = self.embed(batch)
        if len(found.query):
            prediction = self._logits(found).argmax(-1)
            few_shot, score = self.metrics["few_shot"], self.metrics["icnn_score"]
            few_shot.update(prediction, found.query_label, batch["index"])
            score.update(*_all(found), neighborhood=_images_of_a_class(found))
        return self._objectives(found, batch)

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the accuracy with its interval, and the ICNN score."""
        return {"few_shot": FewShotAccuracy(), "icnn_score": ICNNScore(self.neighbors)}

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the class in the episode of every query, (E, Q)."""
        return {"prediction": self._logits(self.embed(batch)).argmax(-1)}


def _all(found: Embedded) -> tuple[Tensor, Tensor]:
    """Return the embeddings and classes of supports and queries together."""
    embedding = torch.cat([found.support, found.query], dim=1)
    return embedding, torch.cat([found.support_label, found.query_label], dim=1)


def _images_of_a_class(found: Embedded) -> int:
    """Return the neighborhood of the whole episode, as in the authors' code."""
    return found.shots + found.query.shape[1] // found.prototypes.shape[1]

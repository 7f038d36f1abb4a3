"""Contrastive learning: representations in which views of a sample are close, without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from framework.contrastive.nt_xent import NTXentLoss
from framework.contrastive.robust_contrastive import Mode, RobustContrastiveLoss
from framework.data.datasets import Batch
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.training.compatibility import check_fact
from framework.training.module import TrainingOptions
from modules.contrastive_learner.evaluation import RepresentationEvaluation
from modules.contrastive_learner.network import build_encoder, build_projector

Criterion = RobustContrastiveLoss | NTXentLoss


class ContrastiveLearner(RepresentationEvaluation):
    """Learns representations by telling which views are of the same sample, without labels.

    A training batch holds two random views of each image, ``image`` and ``image2`` (B, C, H, W), as
    ``TwoViews`` makes them of any images, and ``index`` (B,). An encoder represents them, and a
    projector, which only training uses, makes the embeddings that the criterion compares. With
    ``second_shape`` a batch holds two modes instead, such as the features of images and of their
    texts, ``input`` (B, ...) and ``input2`` (B, ...), or ``image`` and ``image2`` where the first
    are images, each with an encoder and a projector of its own. The term is ``contrast``.

    An evaluation represents all N training samples without augmentation, in N D numbers on every
    rank. With labels, which training does not see, ``val/neighbor_accuracy`` is that of votes of
    the nearest ones, and ``val/probe_accuracy`` that of logistic regression on them.
    ``val/uniformity`` and ``val/alignment`` are of the embeddings of up to 2,048 of them. Where
    samples have temperatures, ``val/frequency_correlation`` is Spearman's of their class means and
    the class frequencies.

    Paper: Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*,
    ICML 2020, arXiv:2002.05709; with ``RobustContrastiveLoss`` that of Qiu et al., ICML 2023,
    arXiv:2305.11965.

    Args:
        input_shape: Shape of an example, (C, H, W) of an image; in a run default that of the data.
        second_shape: Shape of an example of the second mode; in a run default that of the data,
            None for two views of one mode.
        backbone: Encoder: ``'mlp'``, ``'cnn'``, ``'alexnet'`` or any timm name, such as
            ``'resnet18'``; examples that are no images take ``'mlp'``.
        widths: Widths of the layers of ``mlp`` or of the stages of ``cnn``; timm backbones ignore
            them.
        pretrained: Whether to load timm's weights, which needs a network connection.
        projector: Widths of the projector's layers; published are three of 8192.
        criterion: Loss on the embeddings of two views; default ``RobustContrastiveLoss``.
        neighbors: Number of training samples that vote in an evaluation.
        probe: Whether to fit a linear classifier at every evaluation.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: ``input_shape`` is None where nothing fills it, an argument is out of its range,
            or the criterion is for another number of modes.
        IncompatibleError: The data has another shape (at ``setup``), or training batches without a
            second view.

    Example:
        >>> import torch
        >>> from modules import ContrastiveLearner
        >>> model = ContrastiveLearner(input_shape=(1, 8, 8), backbone="cnn", widths=(16, 32))
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 32)
    """

    arguments_from_data: Mapping[str, str] = {
        "input_shape": "input_shape",
        "second_shape": "second_shape",
    }
    provides: tuple[str, ...] = ("index",)
    # both views go through the encoder at once
    whole_batches = False

    def __init__(
        self,
        input_shape: Sequence[int] | None = None,
        second_shape: Sequence[int] | None = None,
        backbone: str = "cnn",
        widths: Sequence[int] = (32, 64, 128),
        pretrained: bool = False,
        projector: Sequence[int] = (256, 128),
        criterion: Criterion | None = None,
        neighbors: int = 20,
        probe: bool = True,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(neighbors=neighbors, probe=probe, optimizer=optimizer, **options)
        if input_shape is None:
            raise ValueError(
                "Neither an argument nor the data says what an example is: set model.input_shape, "
                f"or in Python use {type(self).__name__}.for_data(data)."
            )
        self.input_shape = tuple(input_shape)
        self.input_field = "image" if len(self.input_shape) == 3 else "input"
        self.required_fields = (self.input_field,)
        self.encoder, width = build_encoder(backbone, self.input_shape, widths, pretrained)
        self.projector = build_projector(width, projector)
        self.second_encoder: nn.Module | None = None
        self.second_projector: nn.Module | None = None
        if second_shape is not None:
            self.second_encoder, width = build_encoder(backbone, second_shape, widths, pretrained)
            self.second_projector = build_projector(width, projector)
        mode: Mode = "unimodal" if second_shape is None else "bimodal"
        self.criterion = RobustContrastiveLoss(mode=mode) if criterion is None else criterion
        self._check_modes(mode)

    def _check_modes(self, modes: Mode) -> None:
        criterion = self.criterion
        if isinstance(criterion, RobustContrastiveLoss) and criterion.mode != modes:
            raise ValueError(
                f"model.criterion.mode is {criterion.mode}, and model.second_shape makes the model "
                f"{modes}: set the mode to {modes}, or "
                f"{'give' if modes == 'unimodal' else 'drop'} model.second_shape."
            )

    def setup(self, stage: str) -> None:
        """Check that the data has the model's input shape."""
        check_fact(self.datamodule, "input_shape", self.input_shape)
        super().setup(stage)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return representations (B, D) of examples, of the first mode where there are two."""
        return self.encoder(inputs)

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes."""
        return (batch[self.input_field],)

    def project(self, representation: Tensor) -> Tensor:
        """Return embeddings (B, d) of representations of the first mode."""
        return self.projector(representation)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the term ``contrast``."""
        first, second = batch[self.input_field], batch.get(f"{self.input_field}2")
        if second is None:
            raise IncompatibleError(
                f"Training batches lack {self.input_field}2, the second view: wrap the data in "
                "TwoViews, or give pairs of features by FeaturePairs."
            )
        if self.second_encoder is None or self.second_projector is None:
            # one batch, of which the norms take one mean
            both = self.projector(self.encoder(torch.cat([first, second])))
            one, other = both[: len(first)], both[len(first) :]
        else:
            one = self.projector(self.encoder(first))
            other = self.second_projector(self.second_encoder(second))
        objectives = Objectives(index=batch.get("index"))
        self.add_term(objectives, "contrast", self.criterion, one, other)
        return objectives

    def sample_temperatures(self) -> Tensor | None:
        """Return the temperature of every training sample (N,), the mean of two modes."""
        criterion = self.criterion
        if not isinstance(criterion, RobustContrastiveLoss) or criterion.memory is None:
            return None
        temperature = criterion.temperatures().mean(1).cpu()
        learned = criterion.learn_temperature and not bool(temperature.isnan().all())
        return temperature if learned else None

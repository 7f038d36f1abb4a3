"""Data hyper-cleaning: a weight for every training sample, learned on a few clean ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import binary_auroc

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch, root_and_rows
from framework.distributed.averages import average_over_ranks
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.solvers.projections import Ball, flat
from framework.solvers.variables import gradients_of
from framework.training.compatibility import check_fact, check_unmixed
from framework.utilities.checks import check_at_least, check_positive
from modules.classifier.network import build_network
from modules.constrained_bilevel.module import BilevelOptions, ConstrainedBilevel, Constraints


class HyperCleaning(ConstrainedBilevel):
    r"""Learns which training labels to trust, by a weight for every sample.

    The lower problem trains a classifier on the weighted cross-entropy of the training rows,

    .. math:: \frac1B \sum_i \sigma(x_i)\,\ell_i(y) + \frac\rho2 \|y\|^2

    and the upper one chooses the logits x of the weights such that the classifier has a small
    cross-entropy on clean held-out rows: the datamodule's ``guide_set`` or, where it has none, its
    validation set. Weights belong to rows by ``index``, whatever the order of the batches.

    A batch holds ``image`` (B, C, H, W), or ``input`` (B, D) where ``input_shape`` is one number,
    ``label`` (B,) int64 and ``index`` (B,). Where training rows have a ``clean_label``,
    ``weight_auc`` is how well the weights tell right labels from wrong ones, as the area under the
    ROC curve, and the figure ``sample_weights`` shows both kinds. With ``baseline``, a second
    classifier, trained beside the first on equal weights, gives ``accuracy_uniform``.

    Paper: Yao et al., ICLR 2024, arXiv:2401.16164, section 4.2, whose released script (its labels
    flipped at a rate of 0.4) cleans by a support-vector machine, see ``ConstrainedSVM``; this is
    the form of Franceschi et al., ICML 2017, arXiv:1703.01785, without their bound on the weights.

    Args:
        num_classes: Number K of classes; None for those of the data, see ``for_data``.
        input_shape: Shape (C, H, W) of an image, or [D] of a row; None for that of the data.
        backbone: Backbone: ``'mlp'``, ``'cnn'`` or any timm name, such as ``resnet18``.
        widths: Widths of the layers of ``mlp``, none for a linear classifier, or of the stages of
            ``cnn``.
        ridge: Strength rho of the penalty on the weight matrices.
        max_norm: Largest Euclidean norm of all weight matrices together, as a constraint of the
            lower problem; None for none.
        weight_lr: Learning rate of a logit, in units of that of the network times the number of
            training samples, of which each has 1/N of the loss.
        baseline: Whether to train a second classifier on equal weights.
        **options: Arguments of ``ConstrainedBilevel``.

    Raises:
        ValueError: An argument is out of its range, or ``num_classes`` or ``input_shape`` is None
            where nothing fills it.
        IncompatibleError: The data has other classes or another shape, or mixes samples (at
            ``setup``), or as ``ConstrainedBilevel``.

    Example:
        >>> model = HyperCleaning(num_classes=2, input_shape=(30,))
        >>> tuple(model(torch.zeros(5, 30)).shape)
        (5, 2)
    """

    arguments_from_data: Mapping[str, str] = {
        "num_classes": "num_classes",
        "input_shape": "input_shape",
    }
    panels: tuple[Panel, ...] = (
        Panel("Accuracy", ("accuracy*",), "share of the samples", best="max"),
        Panel("Right labels told from wrong ones", ("weight_auc",), "area under the curve"),
        *ConstrainedBilevel.panels,
    )

    def __init__(
        self,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        backbone: str = "mlp",
        widths: Sequence[int] = (),
        ridge: float = 0.01,
        max_norm: float | None = None,
        weight_lr: float = 3.0,
        baseline: bool = False,
        **options: Unpack[BilevelOptions],
    ) -> None:
        if num_classes is None or input_shape is None:
            raise ValueError(
                "Neither an argument nor the data says what is to be classified: set "
                "model.num_classes and model.input_shape, or in Python use "
                f"{type(self).__name__}.for_data(data)."
            )
        check_at_least(0, ridge=ridge)
        check_positive(max_norm=max_norm, weight_lr=weight_lr)
        shape = tuple(input_shape)
        network = build_network(
            backbone, num_classes, (1, 1, *shape) if len(shape) == 1 else shape, widths
        )
        super().__init__(
            nn.ParameterDict({"logits": torch.zeros(1)}),
            network,
            num_constraints=0 if max_norm is None else 1,
            **options,
        )
        self.num_classes = num_classes
        self.input_shape = shape
        self.input_field = "image" if len(shape) == 3 else "input"
        self.required_fields = (self.input_field, "label")
        self.ridge = ridge
        self.max_norm = max_norm
        self.weight_lr = weight_lr
        self.uniform = deepcopy(network) if baseline else None

    # ---- the problem --------------------------------------------------------------------------

    def lower_loss(self, upper: Any, network: Any, batch: Batch) -> Tensor:
        """Return the weighted cross-entropy of every row, and the penalty."""
        return self._training_loss(network, batch, torch.sigmoid(upper["logits"][batch["index"]]))

    def upper_loss(self, upper: Any, network: Any, batch: Batch) -> Tensor:
        """Return the cross-entropy of every row."""
        return F.cross_entropy(self.logits_of(network, batch), batch["label"], reduction="none")

    def constraints(self, upper: Any, network: Any, batch: Batch) -> Constraints:
        """Return by how much the norm is too large, (1,), with a gradient of length 1 there."""
        assert self.max_norm is not None
        return ((self._squares(network) - self.max_norm**2) / (2 * self.max_norm))[None]

    def project(self, batch: Batch) -> None:
        """Shorten the weight matrices to ``max_norm``."""
        if self.max_norm is not None:
            flat(Ball(self.max_norm))(_matrices(self.network))

    def logits_of(self, network: Any, batch: Batch) -> Tensor:
        """Return logits (B, K)."""
        return network(batch[self.input_field])[0].float()

    def _training_loss(self, network: Any, batch: Batch, weights: Tensor | float) -> Tensor:
        logits = self.logits_of(network, batch)
        losses = F.cross_entropy(logits, batch["label"], reduction="none")
        return weights * losses + self.ridge / 2 * self._squares(network)

    def _squares(self, network: Any) -> Tensor:
        return torch.stack([matrix.square().sum() for matrix in _matrices(network)]).sum()

    # ---- a run --------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Make a weight for every training sample."""
        data = self.datamodule
        check_fact(data, "num_classes", self.num_classes, at_most=stage != "fit")
        check_fact(data, "input_shape", self.input_shape)
        check_unmixed(data, "Hyper-cleaning weighs each sample by itself")
        super().setup(stage)
        if stage == "fit" and isinstance(data, DataModule):
            self._resize(data.num_samples)
            self.upper_lr_scale = self.weight_lr * data.num_samples

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the checkpoint's weights of samples."""
        super().on_load_checkpoint(checkpoint)
        self._resize(len(checkpoint["state_dict"]["upper.logits"]))

    def _resize(self, samples: int) -> None:
        logits = self.upper["logits"]
        if len(logits) != samples:
            self.upper["logits"] = nn.Parameter(logits.new_zeros(samples))

    @property
    def sample_weights(self) -> Tensor:
        """Weight of every training sample by its index, (N,), in (0, 1)."""
        return torch.sigmoid(self.upper["logits"].detach())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of both levels and of the baseline."""
        groups = super().parameter_groups()
        if self.uniform is not None:
            groups.append({"params": list(self.uniform.parameters())})
        return groups

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Take one step of the solver, and of the baseline where there is one."""
        if self.uniform is None:
            return super().training_step(batch, batch_idx)
        batch = self.fields_of(batch)
        parameters: list[Tensor] = list(self.uniform.parameters())
        # the weight that all samples start with
        loss = self.reduced_loss(self._training_loss(self.uniform, batch, 0.5), batch)
        gradients = average_over_ranks(gradients_of(loss, parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return super().training_step(batch, batch_idx)

    # ---- evaluation ---------------------------------------------------------------------------

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return self.network(inputs)[0]

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes."""
        return (batch[self.input_field],)

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the accuracies and return the upper loss."""
        for name, network in self._evaluated().items():
            if len(batch["label"]):
                self.metrics[name].update(self.logits_of(network, batch), batch["label"])
        loss = self.upper_loss(self.upper, self.network, batch)
        return Objectives(per_sample={"upper": loss})

    def _evaluated(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"accuracy": self.network}
        if self.uniform is not None:
            networks["accuracy_uniform"] = self.uniform
        return networks

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the accuracy of every network."""
        return {n: MulticlassAccuracy(self.num_classes, average="micro") for n in self._evaluated()}

    def _log_evaluation(self) -> None:
        super()._log_evaluation()
        found = self._weights_and_truth()
        if found is not None and not self.trainer.sanity_checking:
            value = binary_auroc(found[0].float(), found[1].long())
            self.metric_values["weight_auc"] = value
            self.log(f"{self.stage}/weight_auc", value)

    def _weights_and_truth(self) -> tuple[Tensor, Tensor] | None:
        """Return the weights of the training rows and whether their labels are right, if known."""
        data = getattr(self.datamodule, "train_set", None)
        if data is None:
            return None
        root, rows = root_and_rows(data, list(range(len(data))))
        fields = getattr(root, "fields", {})
        if "clean_label" not in fields or len(root) != len(self.sample_weights):
            return None
        right = (fields["label"] == fields["clean_label"])[rows]
        # of one kind there is nothing to tell apart
        if bool(right.all()) or not bool(right.any()):
            return None
        weights = self.sample_weights
        return weights[torch.tensor(rows, device=weights.device)], right.to(weights.device)

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the weights of right and wrong labels."""
        from modules.constrained_bilevel.figure import sample_weights

        found = self._weights_and_truth()
        return {} if found is None else {"sample_weights": sample_weights(*found)}

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted class and the probability of every class."""
        probability = self.logits_of(self.network, batch).softmax(-1)
        return {"prediction": probability.argmax(-1), "probability": probability}

    @property
    def column_names(self) -> dict[str, Sequence[str]]:
        """Names of the classes."""
        names = self.class_names
        return {} if names is None else {"prediction": names, "probability": names}


def _matrices(network: nn.Module) -> list[Tensor]:
    return [p for p in network.parameters() if p.ndim > 1]

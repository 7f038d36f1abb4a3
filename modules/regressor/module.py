"""Regression: a perceptron, any loss on real-valued targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from framework.data.datasets import Batch
from framework.figures.score_table import Table
from framework.losses.loss import RegressionLoss
from framework.metrics.r2_score import R2Score
from framework.metrics.sample_pairs import SamplePairs
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.training.compatibility import check_fact
from framework.training.module import TrainingModule, TrainingOptions
from framework.training.terms import rows_of
from modules.regressor.network import RegressorNetwork

Criterion = nn.MSELoss | nn.L1Loss | nn.SmoothL1Loss | nn.HuberLoss | RegressionLoss


class Regressor(TrainingModule):
    """Predicts real numbers from rows of numbers by a perceptron with a bottleneck.

    A batch holds ``input`` (B, D) float32, ``target`` (B,) float32 for one target or (B, T) for
    several, ``index`` (B,), and ``group`` (B,) where the data has groups. Without ``widths``,
    ``bottleneck`` and ``decoder_widths`` the model is linear.

    Losses are in the unit of the batches' targets. RMSE, MAE, the figure and the predictions are in
    the data's own unit, where the datamodule gives ``target_mean`` and ``target_std``; R2 is NaN
    where no target varies.

    Args:
        num_inputs: Number D of inputs; None for those of the data, see ``for_data``.
        num_targets: Number T of targets; None for those of the data, or 1. With 1, predictions have
            shape (B,).
        widths: Widths of the encoder's layers, each followed by ReLU; the last gives the features.
        bottleneck: Size of a linear layer at the end of the encoder, which then gives the features;
            None for no such layer.
        decoder_widths: Widths of the hidden layers from the features to the prediction.
        criterion: Loss on predictions and targets; default the mean squared error.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: ``num_inputs`` is None where nothing fills it; the data has another number of
            inputs or targets (at ``setup``), or the targets of a batch have another shape than the
            predictions.

    Example:
        >>> import torch
        >>> from modules import Regressor
        >>> model = Regressor(num_inputs=10, widths=(64,))
        >>> tuple(model(torch.zeros(2, 10)).shape)
        (2,)
    """

    arguments_from_data = {"num_inputs": "input_size", "num_targets": "num_targets"}  # noqa: RUF012
    panels: tuple[Panel, ...] = (
        Panel("Error", ("rmse", "mae"), "unit of the target", best="min"),
        Panel("Explained variance", ("r2",), "share of the variance", best="max"),
    )
    required_fields = ("input", "target")
    tuple_fields = ("input", "target")
    provides: tuple[str, ...] = ("per_sample", "predictions", "targets", "index", "features")

    def __init__(
        self,
        num_inputs: int | None = None,
        num_targets: int | None = None,
        widths: Sequence[int] = (128, 128),
        bottleneck: int | None = None,
        decoder_widths: Sequence[int] = (),
        criterion: Criterion | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if num_inputs is None:
            raise ValueError(
                "Neither an argument nor the data says how many inputs there are: set "
                f"model.num_inputs, or in Python use {type(self).__name__}.for_data(data)."
            )
        num_targets = 1 if num_targets is None else num_targets
        self.num_inputs = num_inputs
        self.num_targets = num_targets
        self.prediction_shape = () if num_targets == 1 else (num_targets,)
        self.network = RegressorNetwork(
            num_inputs=num_inputs,
            num_targets=num_targets,
            widths=widths,
            bottleneck=bottleneck,
            decoder_widths=decoder_widths,
        )
        self.criterion = criterion if criterion is not None else nn.MSELoss()
        self._facts: dict[str, tuple[Any, Tensor]] = {}
        self.provides = rows_of(self.criterion, self.provides)

    def setup(self, stage: str) -> None:
        """Check that the data has the model's numbers of inputs and targets."""
        check_fact(self.datamodule, "input_size", self.num_inputs, argument="num_inputs")
        check_fact(self.datamodule, "num_targets", self.num_targets)
        super().setup(stage)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return predictions (B,) or (B, T)."""
        return self.network(input)[0]

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes."""
        return (batch["input"],)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the term ``regression``."""
        predictions, features = self.network(batch["input"])
        targets = batch["target"]
        if predictions.shape != targets.shape:
            # torch would broadcast (B,) against (B, 1) to (B, B)
            raise ValueError(
                f"The targets of this batch have the shape {tuple(targets.shape)}, but the "
                f"predictions {tuple(predictions.shape)}: set model.num_targets."
            )
        objectives = Objectives(
            predictions=predictions,
            targets=targets,
            index=batch.get("index"),
            group=batch.get("group"),
            features=features,
        )
        self.add_term(objectives, "regression", self.criterion, inputs=batch["input"])
        return objectives

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the loss."""
        objectives = self.objectives(batch)
        assert objectives.predictions is not None
        if len(objectives.predictions):
            # the mean is left out: no metric depends on it, and far from 0 it would cost digits
            unit = self._target_fact("target_std", 1.0)
            predictions, targets = objectives.predictions.double(), batch["target"].double()
            for metric in self.metrics.values():
                metric.update(predictions * unit, targets * unit)
        return objectives

    def make_metrics(self) -> dict[str, Any]:
        """Return RMSE, MAE, R2 and pairs for the figure."""
        # in the target's own unit squares leave the range of float32
        return {
            "rmse": MeanSquaredError(squared=False).set_dtype(torch.float64),
            "mae": MeanAbsoluteError().set_dtype(torch.float64),
            "r2": R2Score(self.num_targets),
            "pairs": SamplePairs(self.num_targets),
        }

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the prediction in the target's own unit."""
        predictions = self(batch["input"]).double()
        unit, mean = self._target_fact("target_std", 1.0), self._target_fact("target_mean", 0.0)
        return {"prediction": (predictions * unit + mean).float()}

    @property
    def column_names(self) -> dict[str, Sequence[str]]:
        """Names of the targets."""
        names = self.data_facts.get("target_names")
        return {} if names is None else {"prediction": names}

    def _target_names(self) -> Sequence[str]:
        """Return the name of each target, where none is known its number."""
        names = getattr(self.datamodule, "target_names", None) or self.data_facts.get(
            "target_names"
        )
        return names or [f"target_{t}" for t in range(self.num_targets)]

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the predicted against the true values of each target, of four at most."""
        from framework.figures.scatter import predicted_against_true

        names = self._target_names()
        mean = self._target_fact("target_mean", 0.0).float()
        predictions, targets = values["pairs"].unbind(1)
        rows = zip((predictions + mean).T.cpu(), (targets + mean).T.cpu(), names[:4], strict=False)
        return {
            f"predictions_{name}" if self.num_targets > 1 else "predictions": (
                predicted_against_true(predicted, true, name)
            )
            for predicted, true, name in rows
        }

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return the errors of each target."""
        predictions, targets = values["pairs"].double().cpu().unbind(1)
        errors = (predictions - targets).T
        rows = [
            (
                name,
                error.square().mean().sqrt().item(),
                error.abs().mean().item(),
            )
            for name, error in zip(self._target_names(), errors, strict=True)
        ]
        caption = f"Errors of {len(targets):,} samples, in the unit of the target"
        return {"target_errors": Table(caption, ("target", "RMSE", "MAE"), rows)}

    def _target_fact(self, name: str, default: float) -> Tensor:
        """Return the mean or the unit of the targets that the datamodule names."""
        value = getattr(self.datamodule, name, self.data_facts.get(name, default))
        known = self._facts.get(name)
        if known is None or known[0] is not value or known[1].device != self.device:
            # once, as the copy is waited for
            tensor = torch.as_tensor(value, dtype=torch.float64, device=self.device)
            known = self._facts[name] = (value, tensor)
        return known[1]

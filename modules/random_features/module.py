"""Random-feature regression at many widths at once, whose test errors show double descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.dynamics.random_features import Activation, peak_height
from framework.figures.score_table import Table
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.training.compatibility import check_fact, check_unmixed
from framework.training.dataset_pass import sweep
from framework.training.module import TrainingModule, TrainingOptions
from framework.training.terms import check_classes
from framework.utilities.checks import check_at_least, check_positive
from modules.random_features.errors import HeadErrors
from modules.random_features.network import RandomFeatureNetwork
from modules.random_features.scores import Budget, spread_budgets, width_scalars, width_table

WIDTHS = (50, 100, 150, 190, 200, 210, 300, 600, 1200)
SHARES = (0.25, 0.5, 0.75, 0.95, 1, 1.05, 1.5, 3, 6)
"""Widths that show the peak, in units of the training rows."""


class RandomFeatures(TrainingModule):
    r"""Trains linear heads on random features at many widths at once: one run is the whole curve.

    At every width P there are several networks :math:`\phi(s X W_0) W_1`, whose first layers W0
    are drawn once and frozen; all heads W1 are trained together by the optimizer of the config,
    each on its own loss :math:`\|Z W_1 - Y\|_F^2 / (2N)`, Y being the one-hot labels. The exact
    solutions on all training rows are found once, when the fit starts. Each validation measures
    the squared error of every width, of the heads as they are and of the exact ones, and the
    figure draws both, beside what the run had reached earlier: the peak at P = N appears for a
    solver that fits the training labels there, and not for one that stops earlier.

    A batch holds ``image`` (B, C, H, W), or ``input`` (B, D) where ``input_shape`` is one number,
    ``label`` (B,) int64 and ``index`` (B,). The training rows must fit into memory.

    ``mse_at_P`` and ``error_at_P`` are the squared error, summed over the classes, and the share of
    wrong classes at width P, means over the draws. ``peak`` is the largest ``mse`` from 0.8 N to
    1.25 N over that at 6 N, ``exact_peak`` the same of the exact solutions, and ``train_mse`` the
    squared error on the training rows at the width nearest to N.

    Paper: Liu and Flanigan, Understanding the Role of Optimization in Double Descent, NeurIPS 2023
    workshop on optimization, arXiv:2312.03951.

    Args:
        num_classes: Number K of classes; None for those of the data, see ``for_data``.
        input_shape: Shape (C, H, W) of an image, or [D] of a row; None for that of the data.
        widths: Numbers of features P, in ascending order.
        draws: Number of networks at each width.
        activation: Activation phi: ``tanh`` or ``relu``.
        scale: Factor s of the features' inputs.
        init_scale: Standard deviation of the heads' weights at the start, times the square root of
            P; 0 starts at zero, from where gradient descent goes to the shortest solution.
        center: Whether the mean of the training inputs is subtracted.
        normalize: Whether each feature is divided by its root mean square over the training rows.
        unit_curvature: Whether each head learns in units in which the curvature L of its loss is 1:
            a learning rate of 1 in plain SGD is then gradient descent with the step 1/L at every
            width. The solutions that can be reached are the same.
        predict_width: Width that ``forward`` and predictions are of; None for the largest.
        optimizer: Optimizer of the heads.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: An argument is out of its range, or ``num_classes`` or ``input_shape`` is None
            where nothing fills it.
        IncompatibleError: The data has other classes or another shape, mixes samples, or is no
            datamodule of Trimtab.

    Example:
        >>> model = RandomFeatures(num_classes=10, input_shape=(1, 8, 8), widths=(20, 40), draws=2)
        >>> tuple(model(torch.zeros(3, 1, 8, 8)).shape)
        (3, 10)
    """

    arguments_from_data: Mapping[str, str] = {
        "num_classes": "num_classes",
        "input_shape": "input_shape",
    }
    panels: tuple[Panel, ...] = (
        Panel("Peak of the error at P = N", ("peak", "exact_peak"), "ratio to the widest"),
        Panel("Squared error by width", ("mse_at_*", "train_mse"), "sum over the classes"),
        Panel("Wrong classes by width", ("error", "error_at_*"), "share of the samples", "min"),
        Panel("Squared training error by width", ("train/mse_at_*",), "sum over the classes"),
    )
    provides: tuple[str, ...] = ("per_sample", "predictions", "targets", "index")

    def __init__(
        self,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        widths: Sequence[int] = WIDTHS,
        draws: int = 3,
        activation: Activation = "tanh",
        scale: float = 2.0,
        init_scale: float = 0.0,
        center: bool = True,
        normalize: bool = False,
        unit_curvature: bool = True,
        predict_width: int | None = None,
        optimizer: OptimizerCallable = torch.optim.SGD,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if num_classes is None or input_shape is None:
            raise ValueError(
                "Neither an argument nor the data says what is to be learned: set "
                "model.num_classes and model.input_shape, or in Python use "
                f"{type(self).__name__}.for_data(data)."
            )
        check_at_least(1, draws=draws, width=min(widths, default=0))
        check_at_least(0, init_scale=init_scale)
        check_positive(scale=scale)
        if list(widths) != sorted(set(widths)):
            raise ValueError(f"widths must ascend, got {list(widths)}.")
        chosen = widths[-1] if predict_width is None else predict_width
        if chosen not in widths:
            raise ValueError(f"predict_width must be one of {list(widths)}, got {chosen}.")
        shape = tuple(input_shape)
        self.num_classes = num_classes
        self.input_shape = shape
        self.prediction_shape = (num_classes,)
        self.input_field = "image" if len(shape) == 3 else "input"
        self.required_fields = (self.input_field, "label")
        self.widths = tuple(widths)
        self.chosen = self.widths.index(chosen)
        self.network = RandomFeatureNetwork(
            torch.Size(shape).numel(),
            num_classes,
            self.widths,
            draws,
            activation,
            scale,
            init_scale,
            center,
            normalize,
            unit_curvature,
        )
        self.budgets: list[Budget] = []
        """What every validation of the fit found, in order."""
        self._training_rows: tuple[Tensor, Tensor] | None = None

    # ---- a run --------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the data fits the model."""
        data = self.datamodule
        check_fact(data, "num_classes", self.num_classes, at_most=stage != "fit")
        check_fact(data, "input_shape", self.input_shape)
        check_unmixed(data, f"{type(self).__name__} solves for the labels")
        super().setup(stage)

    def on_fit_start(self) -> None:
        """Read the training rows, and solve for the exact heads unless a checkpoint has them."""
        super().on_fit_start()
        if not isinstance(self.datamodule, DataModule):
            raise IncompatibleError(
                f"{type(self).__name__} reads all training rows before the first step: give fit() "
                "a trimtab DataModule."
            )
        found = sweep(
            self, lambda batch: {"input": batch[self.input_field], "label": batch["label"]}
        )
        self._training_rows = found["input"].flatten(1), self._one_hot(found["label"])
        if not int(self.network.rows):
            self.network.prepare(*self._training_rows)
        self._check_widths(int(self.network.rows))

    def _check_widths(self, rows: int) -> None:
        """Warn where no width shows the peak."""
        if peak_height(self.widths, torch.ones(len(self.widths)), rows) is None:
            better = sorted({max(1, round(share * rows)) for share in SHARES})
            rank_zero_warn(
                f"There is no peak to be seen: among the widths {list(self.widths)} none is near "
                f"the {rows:,} training rows, or none is larger. Set model.widths, such as to "
                f"{better}."
            )

    def check_numbers(self, batch: Batch) -> None:
        """Refuse a label that is no class."""
        super().check_numbers(batch)
        check_classes(batch["label"], self.num_classes)

    def _one_hot(self, label: Tensor) -> Tensor:
        return F.one_hot(label, self.num_classes).to(self.network.first.dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (B, K) at the chosen width, the mean of its networks."""
        return self.network(inputs.flatten(1))[self.chosen].mean(0)

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes."""
        return (batch[self.input_field],)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the term ``regression``, the sum of all networks' losses."""
        targets = self._one_hot(batch["label"])
        outputs = self.network(batch[self.input_field].flatten(1))
        squares = (outputs - targets).square().sum(-1)
        by_width = squares.detach().mean(1).sum(1) / max(len(targets), 1)
        return Objectives(
            per_sample={"regression": squares.sum((0, 1)) / 2},
            predictions=outputs[self.chosen].mean(0),
            targets=batch["label"],
            index=batch.get("index"),
            logs={f"mse_at_{p}": v for p, v in zip(self.widths, by_width, strict=True)},
        )

    # ---- evaluation ---------------------------------------------------------------------------

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the errors of the present and of the exact heads, and return the loss."""
        targets = self._one_hot(batch["label"])
        features = self.network.features(batch[self.input_field].flatten(1))
        outputs = self.network.outputs(features)
        if len(targets):
            both = torch.stack([outputs, self.network.exact_outputs(features)])
            self.metrics["heads"].update(both.flatten(0, 2), targets)
        squares = (outputs - targets).square().sum(-1)
        return Objectives(per_sample={"regression": squares.sum((0, 1)) / 2})

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the errors of all networks, as they are and as solved exactly."""
        return {"heads": HeadErrors(2 * len(self.widths) * self.network.draws)}

    def _log_evaluation(self) -> None:
        super()._log_evaluation()
        if self.trainer.sanity_checking:
            return
        shape = (2, 2, len(self.widths), self.network.draws)
        (mse, exact), (error, exact_error) = self.metric_values.pop("heads").view(shape)
        values = {"mse": mse, "error": error, "exact_mse": exact, "exact_error": exact_error}
        if self._training_rows is not None and self.trainer.state.fn == "fit":
            values["train_mse"] = self._training_error()
            kept = {name: value.cpu() for name, value in values.items()}
            self.budgets.append(Budget(self.global_step, kept))
        scalars = width_scalars(self.widths, values, int(self.network.rows), self.chosen)
        self.metric_values |= {"by_width": values, **scalars}
        self.log_dict({f"{self.stage}/{name}": v.float() for name, v in scalars.items()})

    @torch.no_grad()
    def _training_error(self) -> Tensor:
        """Return the squared error of every network on all training rows, (W, R)."""
        assert self._training_rows is not None
        inputs, targets = self._training_rows
        squares = (self.network(inputs) - targets).square().sum(-1)
        return squares.double().mean(-1)

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the errors against the width, of now, of earlier budgets and of the solver."""
        from framework.figures.double_descent import WidthErrors, double_descent

        rows = int(self.network.rows)
        if not rows:
            return {}
        now = {name: value.cpu() for name, value in values["by_width"].items()}
        earlier = spread_budgets(self.budgets, self._trained_steps)
        shown = [*earlier, Budget(self._trained_steps, now)]
        curves = {
            f"after {step:,} steps": WidthErrors(found["mse"], found["error"])
            for step, found in shown
        }
        exact = WidthErrors(now["exact_mse"], now["exact_error"])
        figure = double_descent(self.widths, rows, exact, curves, self.network.condition.cpu())
        return {"double_descent": figure}

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return the errors, the condition and the weights' length at every width."""
        rows = int(self.network.rows)
        if not rows:
            return {}
        # a GPU has no median of a fixed order
        by_width = {name: value.cpu() for name, value in values["by_width"].items()}
        condition, norms = self.network.condition.cpu(), self.network.weight_norms.cpu()
        return {"widths": width_table(self.widths, by_width, condition, norms, rows)}

    @property
    def _trained_steps(self) -> int:
        """Steps that the present heads have been trained for."""
        return max([self.global_step, *(budget.step for budget in self.budgets)])

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted class and the outputs of the chosen width."""
        outputs = self(batch[self.input_field])
        return {"prediction": outputs.argmax(-1), "output": outputs}

    @property
    def column_names(self) -> dict[str, Sequence[str]]:
        """Names of the classes."""
        names = self.class_names
        return {} if names is None else {"prediction": names, "output": names}

    # ---- checkpoints --------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the validations found."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["budgets"] = [[budget.step, dict(budget.values)] for budget in self.budgets]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what the validations found."""
        super().on_load_checkpoint(checkpoint)
        self.budgets = [Budget(step, values) for step, values in checkpoint.get("budgets", [])]

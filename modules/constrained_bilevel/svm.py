"""A support-vector machine whose penalties, one for each sample, are tuned on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import BinaryAccuracy

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.distributed.collectives import gather
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.solvers.slack_margins import project_on_slack_margins
from framework.training.compatibility import check_unmixed
from modules.constrained_bilevel.module import BilevelOptions, ConstrainedBilevel, Constraints


class SlackSVM(nn.Module):
    """A linear machine with a slack for every training sample.

    Args:
        num_inputs: Number D of inputs.
        num_samples: Number N of training samples.
    """

    def __init__(self, num_inputs: int, num_samples: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_inputs,), num_inputs**-0.5))
        self.bias = nn.Parameter(torch.zeros(()))
        self.slack = nn.Parameter(torch.ones(num_samples))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores (B,), positive for the class 1."""
        return inputs.flatten(1) @ self.weight + self.bias


class ConstrainedSVM(ConstrainedBilevel):
    r"""Chooses the penalty of every training sample of a support-vector machine.

    The lower problem, over w, b and the slacks, is

    .. math:: \tfrac12 \|w\|^2 + \tfrac12 \sum_i e^{c_i} \xi_i^2
        \quad\text{subject to}\quad l_i (w^T z_i + b) \ge 1 - \xi_i

    with labels l of -1 and 1; the upper one chooses c by a smooth count of the errors on held-out
    rows, :math:`2 \sigma(-5 l s / \|w\|) - 1` of the score s, of which what is negative, a right
    answer, counts a hundredth. Slacks, penalties and multipliers belong to rows by ``index``. A
    batch may be all training rows, as in the paper, or a part, whose constraints alone are then
    looked at.

    A batch holds ``input`` (B, D), ``label`` (B,) of 0 and 1, and ``index`` (B,).

    Paper: Yao et al., ICLR 2024, arXiv:2401.16164, section 4.2. The released scripts shuffle the
    rows while multipliers and slacks stay in order, never step the penalties, and let multipliers
    be negative; here each row has its own, and the equations are followed. Each constraint is
    divided by the length of its gradient. The power of ``c_k`` is below 1/2, that of the scripts.

    Args:
        num_inputs: Number D of inputs; None for that of the data, see ``for_data``.
        initial_penalty: Logarithm c of every penalty at the start.
        penalty_lr_scale: Factor on the learning rate for the penalties.
        **options: Arguments of ``ConstrainedBilevel``.

    Raises:
        ValueError: ``num_inputs`` is None where nothing fills it.
        IncompatibleError: The data has another number of inputs, more than two classes or mixed
            samples (at ``setup``), or as ``ConstrainedBilevel``.

    Example:
        >>> tuple(ConstrainedSVM(num_inputs=30)(torch.zeros(5, 30)).shape)
        (5,)
    """

    arguments_from_data: Mapping[str, str] = {"num_inputs": "input_shape"}
    panels: tuple[Panel, ...] = (
        Panel("Accuracy", ("accuracy",), "share of the samples", best="max"),
        *ConstrainedBilevel.panels,
    )
    required_fields = ("input", "label")

    def __init__(
        self,
        num_inputs: int | Sequence[int] | None = None,
        initial_penalty: float = -5.5,
        penalty_lr_scale: float = 1.0,
        **options: Unpack[BilevelOptions],
    ) -> None:
        if num_inputs is None:
            raise ValueError(
                "Neither an argument nor the data says how many inputs there are: set "
                f"model.num_inputs, or in Python use {type(self).__name__}.for_data(data)."
            )
        size = num_inputs if isinstance(num_inputs, int) else math.prod(num_inputs)
        super().__init__(
            nn.ParameterDict({"penalties": torch.full((1,), float(initial_penalty))}),
            SlackSVM(size),
            num_constraints=1,
            upper_lr_scale=penalty_lr_scale,
            **options,
        )
        self.num_inputs = size

    # ---- the problem --------------------------------------------------------------------------

    def lower_loss(self, upper: Any, network: Any, batch: Batch) -> Tensor:
        """Return the loss of every row, whose mean over all rows is that of the problem."""
        index = batch["index"]
        penalties = upper["penalties"][index].exp() * network.slack[index].square()
        return (network.weight.square().sum() + len(network.slack) * penalties) / 2

    def upper_loss(self, upper: Any, network: Any, batch: Batch) -> Tensor:
        """Return the smooth error of every row."""
        margins = _signs(batch) * network(batch["input"]) / network.weight.norm()
        return F.leaky_relu(2 * torch.sigmoid(-5 * margins) - 1, 0.01)

    def constraints(self, upper: Any, network: Any, batch: Batch) -> Constraints:
        """Return by how much the margin of every row lacks, and the numbers of the rows."""
        index = batch["index"]
        lack = 1 - network.slack[index] - _signs(batch) * network(batch["input"])
        return lack / (batch["input"].square().sum(1) + 2).sqrt(), index

    def project(self, batch: Batch) -> None:
        """Move the machine to where the margins of the batch's rows hold."""
        # all ranks move it alike
        index = gather(batch["index"])
        signs, inputs = gather(_signs(batch)), gather(batch["input"])
        rows = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1) * signs[:, None]
        machine: Any = self.network
        point = torch.cat([machine.weight, machine.bias[None]])
        nearest, slack = project_on_slack_margins(point, machine.slack[index], rows)
        machine.weight.copy_(nearest[:-1])
        machine.bias.copy_(nearest[-1])
        machine.slack.index_copy_(0, index, slack)

    # ---- a run --------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Make a penalty, a slack and a multiplier for every training sample."""
        data = self.datamodule
        name, classes = type(data).__name__, getattr(data, "num_classes", 2)
        if classes != 2:
            raise IncompatibleError(
                f"{type(self).__name__} tells two classes apart, and {name} has {classes}: give "
                "data of two classes."
            )
        shape = getattr(data, "input_shape", None)
        if shape is not None and (inputs := math.prod(shape)) != self.num_inputs:
            raise IncompatibleError(
                f"{name} has {inputs} inputs, but the model was built for {self.num_inputs}: set "
                f"model.num_inputs to {inputs}."
            )
        check_unmixed(data, "A support-vector machine has a slack for each sample")
        super().setup(stage)
        if stage == "fit" and isinstance(data, DataModule):
            self._resize(data.num_samples)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for what the checkpoint has of every sample."""
        super().on_load_checkpoint(checkpoint)
        self._resize(len(checkpoint["state_dict"]["upper.penalties"]))

    def _resize(self, samples: int) -> None:
        penalties = self.upper["penalties"]
        if len(penalties) == samples:
            return
        self.upper["penalties"] = nn.Parameter(penalties.detach()[:1].repeat(samples))
        for machine in (self.network, self.theta):
            machine.slack = nn.Parameter(torch.ones_like(self.upper["penalties"]))
        self.set_num_constraints(samples)

    # ---- evaluation ---------------------------------------------------------------------------

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores (B,), positive for the class 1."""
        return self.network(inputs)

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes."""
        return (batch["input"],)

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the accuracy and return the upper loss."""
        if len(batch["label"]):
            self.metrics["accuracy"].update(self(batch["input"]) > 0, batch["label"])
        loss = self.upper_loss(self.upper, self.network, batch)
        return Objectives(per_sample={"upper": loss})

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the accuracy."""
        return {"accuracy": BinaryAccuracy()}

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the penalties."""
        from modules.constrained_bilevel.figure import penalties

        return {"penalties": penalties(self.upper["penalties"].detach())}

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted class and the score."""
        score = self(batch["input"])
        return {"prediction": (score > 0).long(), "score": score}


def _signs(batch: Batch) -> Tensor:
    return 2 * batch["label"].to(batch["input"].dtype) - 1

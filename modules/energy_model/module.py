"""A density learned as an energy, by comparing data with noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.distributed.collectives import draw_for_global_batch, shared_generator
from framework.energy.compositional_mle import CompositionalMLELoss
from framework.energy.contrastive_divergence import ContrastiveDivergenceLoss, langevin
from framework.energy.energy_loss import EnergyLoss
from framework.energy.energy_rows import Energies, EnergyRows
from framework.energy.networks import EnergyMLP
from framework.energy.noise import Noise, NormalNoise
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.training.compatibility import check_fact
from framework.training.dataset_pass import sweep
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.checks import check_at_least
from framework.utilities.lightning_internals import micro_batch_of, trainer_of
from framework.utilities.randomness import global_seed
from modules.energy_model.normalization import Normalization, normalization


class EnergyModel(TrainingModule):
    r"""Learns a density by a network that gives each row an energy, without Markov chains.

    The density is :math:`q(x) e^{-E(x)} / Z`, or :math:`e^{-E(x)} / Z` where it is not ``tilted``,
    E being the network and q the noise, which is fitted to the training rows before the first step.
    Each step draws noise for the global batch and compares it with the data by ``criterion``. No
    label is used.

    A batch holds ``input`` (B, D), or ``image`` (B, C, H, W) where ``input_shape`` has three
    numbers, and ``index`` (B,), or is a tuple that begins with either. In evaluation it may hold
    ``is_outlier`` (B,) bool and ``log_density`` (B,), the logarithm of the true density.

    ``nll`` is the negative log-likelihood of rows that are no outliers, in nats, with Z summed over
    a grid of the noise's box; of more than two numbers a row, ``nll_estimate`` has Z as the mean of
    draws of the noise, which is too low on average, so that the estimate is too good where few
    draws count. ``auroc`` is how well the energy tells outliers. Both have the noise's own value
    beside them.

    Paper: Jiang et al., Learning Unnormalized Statistical Models via Compositional Optimization,
    ICML 2023, arXiv:2306.07485.

    Args:
        input_shape: Shape (C, H, W) of an image or [D] of a row; None for that of the data.
        widths: Widths of the network's hidden layers.
        noise: Density that data is compared with.
        criterion: Loss: ``CompositionalMLELoss``, ``NCELoss`` or ``ContrastiveDivergenceLoss``.
        tilted: Whether the density is the noise's times exp(-E), the more stable form.
        draws: Draws of noise for each row of data.
        grid_size: Cells along each side of the grid, for rows of one or two numbers.
        normalizer_draws: Draws of noise that the normalizer is estimated by, for longer rows.
        optimizer: Optimizer of the network.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: ``input_shape`` is None where nothing fills it, or an argument is out of its
            range.
        IncompatibleError: The data has another shape, or is no datamodule of Trimtab.

    Example:
        >>> model = EnergyModel(input_shape=[2], widths=(16,))
        >>> model(torch.zeros(3, 2))  # of the noise as it is before it is fitted: log(2 pi)
        tensor([1.8379, 1.8379, 1.8379], grad_fn=<SubBackward0>)
    """

    arguments_from_data: Mapping[str, str] = {"input_shape": "input_shape"}
    panels: tuple[Panel, ...] = (
        Panel("Negative log-likelihood", ("nll*",), "nats", best="min"),
        Panel("Outliers told by their energy", ("auroc*",), "AUROC", best="max"),
        Panel("Noise that counts", ("train/effective_share*",), "share of the draws"),
        Panel("Normalizer", ("log_z", "train/log_z*", "train/log_u*"), "logarithm"),
    )
    provides: tuple[str, ...] = ("per_sample", "index")

    def __init__(
        self,
        input_shape: Sequence[int] | None = None,
        widths: Sequence[int] = (128, 128),
        noise: Noise | None = None,
        criterion: EnergyLoss | None = None,
        tilted: bool = True,
        draws: int = 1,
        grid_size: int = 200,
        normalizer_draws: int = 20_000,
        optimizer: OptimizerCallable = torch.optim.Adam,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if input_shape is None:
            raise ValueError(
                "Neither an argument nor the data says what a row is: set model.input_shape, or in "
                f"Python use {type(self).__name__}.for_data(data)."
            )
        check_at_least(1, draws=draws, grid_size=grid_size, normalizer_draws=normalizer_draws)
        self.input_shape = tuple(input_shape)
        self.input_field = "image" if len(self.input_shape) == 3 else "input"
        self.required_fields = (self.input_field,)
        self.tuple_fields = (self.input_field, "label")
        self.size = torch.Size(self.input_shape).numel()
        self.tilted = tilted
        self.draws = draws
        self.grid_size = grid_size
        self.normalizer_draws = normalizer_draws
        self.network = EnergyMLP(self.size, widths)
        self.noise = NormalNoise() if noise is None else noise
        if not bool(self.noise.is_fitted):
            self.noise.allocate(self.size)
        if (length := self.noise.distribution.event_shape[0]) != self.size:
            raise ValueError(
                f"noise is of rows of {length} numbers, and input_shape={list(input_shape)} has "
                f"{self.size}: fit it to such rows."
            )
        self.criterion = CompositionalMLELoss() if criterion is None else criterion
        if isinstance(self.criterion, ContrastiveDivergenceLoss) and draws > 1:
            raise ValueError(f"ContrastiveDivergenceLoss has one chain a row, got draws={draws}.")

    # ---- a run --------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check that the data fits the model."""
        check_fact(self.datamodule, "input_shape", self.input_shape)
        super().setup(stage)

    def on_fit_start(self) -> None:
        """Fit the noise to the training rows, unless a checkpoint has it."""
        super().on_fit_start()
        if bool(self.noise.is_fitted):
            return
        if not isinstance(self.datamodule, DataModule):
            raise IncompatibleError(
                f"{type(self).__name__} fits its noise to all training rows before the first step: "
                "give fit() a trimtab DataModule, or noise that is fitted."
            )
        found = sweep(self, lambda batch: {"rows": batch[self.input_field].flatten(1)})
        self.noise.fit(found["rows"])

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the energies -log p of inputs (B, ...), up to a constant, (B,)."""
        rows = inputs.flatten(1)
        energy = self.network(rows)
        return energy - self.noise.log_prob(rows) if self.tilted else energy

    def forward_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what ``forward`` takes."""
        return (batch[self.input_field],)

    def log_ratio(self, rows: Tensor) -> Tensor:
        """Return log p0 - log q of rows (N, D), (N,)."""
        energy = self.network(rows)
        return -energy if self.tilted else -energy - self.noise.log_prob(rows)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the loss of every row, under the name that ``criterion`` gives it."""
        rows = batch[self.input_field].flatten(1)
        compared = self._compared(rows)
        # one pass for both
        ratio = self.log_ratio(torch.cat([rows, compared.flatten(0, 1)]))
        data, noise = ratio.split([len(rows), self.draws * len(rows)])
        values = self.criterion.per_sample(
            data, noise.view(len(rows), self.draws), self.noise.log_prob(rows)
        )
        return Objectives(
            per_sample={self.criterion.term: values},
            index=batch.get("index"),
            logs=self.criterion.logs(),
        )

    def _compared(self, rows: Tensor) -> Tensor:
        """Return what data is compared with, (B, k, D): noise, or the ends of chains."""
        criterion = self.criterion
        generator = shared_generator(
            global_seed(),
            self.global_step,
            "energy noise",
            rows.device,
            micro_batch_of(trainer_of(self)),
        )
        if isinstance(criterion, ContrastiveDivergenceLoss):
            shape, kind = (criterion.steps, self.size), rows.dtype
            noise = draw_for_global_batch(
                lambda n, g: torch.randn(n, *shape, dtype=kind, device=rows.device, generator=g),
                len(rows),
                generator,
            )
            return langevin(self, rows, noise, criterion.step_size)[:, None]
        return draw_for_global_batch(
            lambda n, g: self.noise.sample(n * self.draws, g).view(n, self.draws, self.size),
            len(rows),
            generator,
        ).to(rows.dtype)

    # ---- evaluation ---------------------------------------------------------------------------

    def evaluate(self, batch: Batch) -> None:
        """Keep the energies of the rows."""
        rows = batch[self.input_field].flatten(1)
        true = batch.get("log_density")
        self.metrics["rows"].update(
            self(rows),
            -self.noise.log_prob(rows),
            None if true is None else -true,
            batch.get("is_outlier"),
        )

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the energies of all rows."""
        return {"rows": EnergyRows()}

    def _log_evaluation(self) -> None:
        super()._log_evaluation()
        energies: Energies = self.metric_values.pop("rows", None)
        if self.trainer.sanity_checking or energies is None:
            return
        found = self.normalization()
        name = "nll" if found.is_exact else "nll_estimate"
        scores = {"log_z": found.log_z, **energies.scores(found.log_z.cpu(), name)}
        self.metric_values |= {"energies": energies, "plane": found.plane, **scores}
        self.log_dict({f"{self.stage}/{name}": v.float() for name, v in scores.items()})

    @torch.no_grad()
    def normalization(self) -> Normalization:
        """Return the logarithm of the normalizer, and the densities in a plane."""
        return normalization(
            self.log_ratio,
            self.noise,
            self.size,
            self.grid_size,
            self.normalizer_draws,
            true_log_density=getattr(self.datamodule, "log_density", None),
        )

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the energies and, of rows of two numbers, the densities."""
        from framework.energy.figures import density_panels, energy_histogram

        if "energies" not in values:
            return {}
        figures = {"energies": energy_histogram(values["energies"])}
        if values["plane"] is not None:
            figures["densities"] = density_panels(values["plane"])
        return figures

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the energy of each row."""
        return {"energy": self(batch[self.input_field])}

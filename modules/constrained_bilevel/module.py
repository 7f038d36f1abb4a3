"""Base of problems of two levels in a run: what is trained, and what the training is judged by."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.runs.panels import Panel
from framework.solvers.lv_hba import LVHBA
from framework.training.compatibility import require
from framework.training.guide_stream import GuideStream
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.lightning_internals import trainer_of

Constraints = Tensor | tuple[Tensor, Tensor]


class BilevelOptions(TrainingOptions, total=False):
    """Arguments of ``ConstrainedBilevel`` whose defaults are the same for every problem.

    Args:
        optimizer: Optimizer of both levels, whose learning rate is the paper's alpha.
        beta: Step size of z, the centers of the multipliers.
        eta: Step size of the network's copy and of the multipliers, at least the learning rate.
        gamma1: Strength of the pull between network and copy, as a divisor.
        gamma2: Strength of the pull between multipliers and z, as a divisor.
        c0: Divisor of the upper loss in the first step.
        p: Power by which that divisor grows with the steps, in [0, 1/2).
        r: Largest multiplier.
    """

    optimizer: OptimizerCallable
    beta: float
    eta: float
    gamma1: float
    gamma2: float
    c0: float
    p: float
    r: float


class ConstrainedBilevel(TrainingModule):
    """Trains a network on a loss with parameters that are tuned on held-out rows, in one run.

    The *lower* problem is the training: minimize ``lower_loss`` over the network, subject to
    ``constraints``. The *upper* one chooses the parameters of the lower, ``upper``, such that the
    network that solves it has a small ``upper_loss`` on held-out rows: those of the datamodule's
    ``guide_set`` or, where it has none, its validation set. Every training batch is one step of
    ``framework.solvers.LVHBA``, which works in any training loop; this is that solver in a run.

    A problem overrides the losses, ``evaluate`` and, where it has them, ``constraints`` and
    ``project``. They get the parameters, a network, which may be the copy, and a batch. A loss is a
    value for each row, (B,), or a scalar, the mean over the batch's rows; on several ranks each has
    its part of the batch, and the step is that of the whole one. Constraints are a vector (p,) that
    does not depend on the batch, or values and numbers of those that belong to its rows.

    The checkpoint holds the parameters, the network, its copy ``theta``, the multipliers, ``z`` and
    the number of steps.

    Paper: Yao et al., ICLR 2024, arXiv:2401.16164; see ``LVHBA`` for how the code differs.

    Args:
        upper: Module with the parameters of the lower problem.
        network: Network that is trained.
        num_constraints: Number p of constraints; 0 for none.
        upper_lr_scale: Factor on the learning rate for the parameters of the lower problem.
        optimizer: Optimizer of both levels, whose learning rate is the paper's alpha.
        beta: Step size of z, the centers of the multipliers.
        eta: Step size of the network's copy and of the multipliers, at least the learning rate.
        gamma1: Strength of the pull between network and copy, as a divisor.
        gamma2: Strength of the pull between multipliers and z, as a divisor.
        c0: Divisor of the upper loss in the first step.
        p: Power by which that divisor grows with the steps, in [0, 1/2).
        r: Largest multiplier.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: An argument is out of its range.
        IncompatibleError: The data holds no rows out, a callback adds a term, or the precision is
            ``16-mixed``, or the schedule waits for a metric (at the start of training).
    """

    panels: tuple[Panel, ...] = (
        Panel("Losses of both levels", ("train/upper_epoch", "train/lower_epoch"), best="min"),
    )
    provides = ("index",)
    whole_parameters: ClassVar[bool] = True
    compilable: ClassVar[bool] = False
    upper: Any
    network: Any
    theta: Any
    steps: Tensor

    def __init__(
        self,
        upper: nn.Module,
        network: nn.Module,
        *,
        num_constraints: int = 0,
        upper_lr_scale: float = 1.0,
        optimizer: OptimizerCallable = torch.optim.SGD,
        beta: float = 0.05,
        eta: float = 0.1,
        gamma1: float = 1.0,
        gamma2: float = 1.0,
        c0: float = 1.0,
        p: float = 0.3,
        r: float = 1e3,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        self.automatic_optimization = False
        self.upper = upper
        self.network = network
        self.theta = deepcopy(network)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.upper_lr_scale = upper_lr_scale
        self.solver_options = {
            "beta": beta,
            "eta": eta,
            "gamma1": gamma1,
            "gamma2": gamma2,
            "c0": c0,
            "p": p,
            "r": r,
        }
        self.set_num_constraints(num_constraints)
        self._held_out_rows = GuideStream()
        self._batch: Batch = {}
        self._held_out: Batch = {}
        # refuses what is out of its range
        self._solver = self._make_solver()

    def set_num_constraints(self, number: int) -> None:
        """Make room for the multipliers of a number of constraints, which start at 0."""
        # parameters, as buffers are other tensors after a move to a device
        self.multipliers = nn.Parameter(torch.zeros(number), requires_grad=False)
        self.z = nn.Parameter(torch.zeros(number), requires_grad=False)

    # ---- what a problem writes ----------------------------------------------------------------

    def upper_loss(self, upper: Any, network: Any, batch: Batch) -> Tensor:
        """Return the loss on held-out rows, (B,) or its mean."""
        raise NotImplementedError(f"{type(self).__name__} defines no upper_loss.")

    def lower_loss(self, upper: Any, network: Any, batch: Batch) -> Tensor:
        """Return the loss on training rows, (B,) or its mean."""
        raise NotImplementedError(f"{type(self).__name__} defines no lower_loss.")

    def constraints(self, upper: Any, network: Any, batch: Batch) -> Constraints:
        """Return what must not be positive, all (p,), or values (b,) and their numbers (b,)."""
        raise NotImplementedError(f"{type(self).__name__} defines no constraints.")

    def project(self, batch: Batch) -> None:
        """Move parameters and network, in place, to where all constraints hold; default: not."""

    # ---- a run --------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Begin the stream of held-out rows and the solver where the run stands."""
        super().on_train_start()
        if str(self.trainer.precision) == "16-mixed":
            raise IncompatibleError(
                f"{type(self).__name__} takes gradients before they are scaled for fp16; use "
                "bf16-mixed."
            )
        data = require(self, self.datamodule, DataModule, "a trimtab DataModule")
        if data.guide_set is None:
            data.guide_set = data.val_set
        if data.guide_set is None:
            raise IncompatibleError(
                f"{type(self).__name__} tunes on held-out rows, and {type(data).__name__} has "
                "none: set data.val_size."
            )
        self._held_out_rows.restart(int(self.steps))
        self._held_out_rows.begin(data, data.batch_size)
        self._solver = self._make_solver()
        self._solver.k = int(self.steps)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build optimizer and schedule, and refuse a schedule that waits for a metric."""
        found: Any = super().configure_optimizers()
        if isinstance(found, dict) and isinstance(
            found["lr_scheduler"]["scheduler"], ReduceLROnPlateau
        ):
            raise IncompatibleError(
                f"{type(self).__name__} steps its schedule after every batch, and "
                "ReduceLROnPlateau waits for a metric: use another model.lr_scheduler."
            )
        return found

    def _make_solver(self) -> LVHBA:
        constrained = len(self.multipliers) > 0
        trains = trainer_of(self) is not None
        return LVHBA(
            upper=self.upper_loss,
            lower=self._lower_term,
            constraints=self.constraints if constrained else None,
            x=self.upper,
            y=self.network,
            theta=self.theta,
            multipliers=self.multipliers if constrained else None,
            z=self.z if constrained else None,
            num_constraints=len(self.multipliers) if constrained else None,
            project_C=lambda upper, network: self.project(self._batch),
            optimizer=self.optimizers() if trains else None,  # type: ignore[arg-type]
            **self.solver_options,  # type: ignore[arg-type]
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of both levels; the copy has its own step size."""
        return [
            {
                "params": [p for p in self.upper.parameters() if p.requires_grad],
                "lr_scale": self.upper_lr_scale,
                "weight_decay": 0.0,
            },
            {"params": [p for p in self.network.parameters() if p.requires_grad]},
        ]

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms ``upper``, on held-out rows, and ``lower``."""
        objectives = Objectives(index=batch.get("index"))
        objectives.weights["upper"] = 1 / self._solver.divisor
        held_out = self._held_out
        _add(objectives, "upper", self.upper_loss(self.upper, self.network, held_out), held_out)
        _add(objectives, "lower", self.lower_loss(self.upper, self.network, batch), batch)
        return objectives

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Take one step of the solver."""
        batch = self._batch = self.fields_of(batch)
        self._held_out = self._held_out_rows.next(self.trainer)
        reduced = self.reduced_objectives(batch)
        if other := set(reduced.terms) - {"upper", "lower"}:
            raise IncompatibleError(
                f"{type(self).__name__} minimizes an upper and a lower loss, and a callback adds "
                f"the term {min(other)!r}."
            )
        self._solver.lower_step(batch)
        terms = reduced.terms["upper"], reduced.terms["lower"]
        self._solver.upper_step(batch, values=terms)
        self.steps += 1
        schedule = self.lr_schedulers()
        if schedule is not None:
            self.lr_scheduler_step(schedule, None)  # type: ignore[arg-type]
        return reduced.total.detach()

    def _lower_term(self, upper: Any, network: Any, batch: Batch) -> Tensor:
        return self.reduced_loss(self.lower_loss(upper, network, batch), batch)

    def reduced_loss(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return the scalar whose gradient's mean over ranks is that of the global batch's mean."""
        objectives = Objectives()
        _add(objectives, "loss", loss, batch)
        return reduce_objectives(objectives).total


def _add(objectives: Objectives, name: str, loss: Tensor, batch: Batch) -> None:
    """Add a loss of the rows of a batch, whichever form it has."""
    if loss.ndim:
        objectives.per_sample[name] = loss
        return
    objectives.terms[name] = loss
    rows = len(next(value for value in batch.values() if isinstance(value, Tensor)))
    objectives.count[name] = loss.new_full((), float(rows))

"""The schedule that fits the gradient norms of the first run, for the second one."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from framework.schedules.gradient_norms import GradientNorms, read_gradient_norms
from framework.schedules.optimizer_kinds import COLUMNS, KINDS, kind_of, kind_of_name
from framework.schedules.refine import check_refinement, refine_schedule, resampled
from framework.schedules.steps import continues_run, resolve_total_steps

_Known = tuple[int, str | float, float, float, float]


class RefinedLR(LRScheduler):
    """Learning rates refined by the gradient norms of an earlier run; without one, linear decay.

    The first run, with ``norms`` None and ``GradientNormRecorder``, decays linearly to 0 and
    records its norms. The second is the same with ``norms`` its folder: ``refine_schedule`` makes
    the schedule of them. The peak is the optimizer's learning rate, to be tuned again; in the last
    step the rate is exactly 0. Decoupled weight decay, as AdamW's, is scheduled along with it.

    The schedule itself is in the state, so that a run resumes without the file, also where that
    has changed. Where it is loaded into a run of another length it is stretched.

    Paper: Defazio et al., *When, Why and How Much? Adaptive Learning Rate Scheduling by
    Refinement*, 2023, arXiv:2310.07831.

    Args:
        optimizer: Optimizer whose learning rates are scheduled.
        norms: File that ``GradientNormRecorder`` wrote, or the run folder that it lies in; None
            for linear decay, which is the first run.
        total_steps: Optimizer steps of the schedule, or ``'auto'`` for those of the run.
        kind: Kind of the optimizer, ``'sgd'`` for the weights ``norm ** -2`` of L2 norms,
            ``'adam'`` for ``norm ** -1`` of L1 norms; ``'auto'`` goes by its class: SGD, ASGD and
            PowerpropSGD are of the first, torch's Adam family, Adagrad, RMSprop and LionK of the
            second. A number p is for ``norm ** -p`` of L2 norms.
        smoothing: Share of the steps that a median of the norms is taken over, in [0, 1].
        ignore_first: Share of the first steps whose norms are replaced by the next, in [0, 1).
        floor: Share of the median norm that no smoothed norm falls below; 0 for none.

    Raises:
        ValueError: An argument is out of range, the file holds no such norms, or ``kind`` is
            ``'auto'`` for an optimizer that is not listed.
        FileNotFoundError: There is no such file.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        >>> RefinedLR(optimizer, total_steps=5).schedule
        tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        norms: str | None = None,
        total_steps: int | Literal["auto"] = "auto",
        kind: Literal["auto", "sgd", "adam"] | float = "auto",
        smoothing: float = 0.1,
        ignore_first: float = 0.0,
        floor: float = 0.0,
    ) -> None:
        steps = resolve_total_steps(total_steps)
        known = (steps, 1.0 if kind == "auto" else kind, smoothing, ignore_first, floor)
        check_refinement(*known)
        self.schedule = refine_schedule([1.0], steps, smoothing=0.0)
        """Factors (T,) of the learning rate, in float64, on the CPU."""
        self._problem: Exception | None = None
        if norms is not None:
            if continues_run():  # with the schedule of its checkpoint
                self._read_if_there(optimizer, norms, known, kind)
            else:
                self.schedule = _refined(optimizer, norms, known, kind)
        super().__init__(optimizer)

    def _read_if_there(
        self, optimizer: Optimizer, norms: str, known: _Known, kind: str | float
    ) -> None:
        """Read the file, of which nobody needs to hear unless it is used."""
        with warnings.catch_warnings(action="ignore"):
            try:
                self.schedule = _refined(optimizer, norms, known, kind)
            except (OSError, ValueError) as error:
                self._problem = error

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group in this step."""
        factor = float(self.schedule[min(self.last_epoch, len(self.schedule) - 1)])
        return [base * factor for base in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step's learning rates."""
        if self._problem is not None and not self._is_initial:
            raise self._problem
        super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the schedule, and the schedule."""
        return {name: v for name, v in super().state_dict().items() if name != "_problem"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the schedule of a state, stretched where this run is of another length."""
        steps = len(self.schedule)
        super().load_state_dict(state_dict)
        self._problem = None
        known = len(self.schedule)
        if known != steps:
            warnings.warn(
                f"The schedule of the checkpoint is for {known} steps, and this run has {steps}: "
                "it is stretched.",
                stacklevel=2,
            )
            self.schedule = torch.from_numpy(resampled(self.schedule.numpy(), steps))


def _refined(
    optimizer: Optimizer,
    path: str,
    known: _Known,
    kind: str | float,
) -> Tensor:
    """Return the schedule of a file, and warn where that is of another run than this one."""
    own = kind_of(optimizer)
    if kind == "auto":
        if own is None:
            raise ValueError(
                f"RefinedLR does not know which norm {type(optimizer).__name__} steps by: set kind "
                f"to 'sgd' (L2 norms, as for {KINDS['sgd'][0]}) or 'adam' (L1 norms, as for "
                f"{KINDS['adam'][0]})."
            )
        kind = own
    record = read_gradient_norms(path)
    column = COLUMNS.get(str(kind), "l2")
    if column not in record.norms:
        raise ValueError(
            f"{path} holds the norms {', '.join(record.norms)} only, and {kind!r} needs {column}: "
            f"record them with norms [l2, l1], or set kind."
        )
    _warn_of_others(path, record, optimizer, known[0])
    return refine_schedule(record.norms[column], known[0], kind, *known[2:])  # type: ignore[arg-type]


def _warn_of_others(path: str, record: GradientNorms, optimizer: Optimizer, steps: int) -> None:
    recorded = len(next(iter(record.norms.values())))
    if recorded != steps:
        rest = record.total_steps is not None and recorded < record.total_steps
        of = f" of {record.total_steps}" if rest else ""
        warnings.warn(
            f"{path} holds the norms of {recorded}{of} steps, and this run has {steps}: they are "
            "stretched.",
            stacklevel=4,
        )
    own, other = kind_of(optimizer), kind_of_name(record.optimizer)
    if own is not None and other is not None and own != other:
        warnings.warn(
            f"{path} was recorded with {record.optimizer}, and this run has "
            f"{type(optimizer).__name__}: the norms of one may not fit the other.",
            stacklevel=4,
        )

"""Logs the values of the terms of every step."""

from __future__ import annotations

from math import isfinite

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from framework.distributed.collectives import world_size
from framework.gradients.combined_step import CombinedStep
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import ReducedObjectives
from framework.training.nonfinite import NonFiniteGuard
from framework.training.term_means import TermMeans
from framework.utilities.lightning_internals import logged_step


class TermLog:
    """Hands the loss, terms and logs of steps to the loggers, and adds them to the epoch's means.

    What is not finite is noted in ``watch``, which ends the run at the next check.
    """

    def __init__(self) -> None:
        self.means = TermMeans()
        self.watch = NonFiniteGuard()
        self._names: tuple[str, ...] = ()
        self._values: Tensor | tuple[Tensor, ...] = ()

    @property
    def latest(self) -> dict[str, Tensor]:
        """Values of this rank's latest step by their names, detached."""
        return dict(zip(self._names, self._values, strict=True))

    def add(
        self,
        trainer: Trainer,
        reduced: ReducedObjectives,
        objectives: Objectives,
        combined_step: CombinedStep | None,
    ) -> None:
        """Add one step.

        Args:
            trainer: Trainer whose step it is, and whose loggers get the values.
            reduced: Terms after the reduction over ranks.
            objectives: This rank's objectives, for their logs.
            combined_step: What combined the gradients, for its logs; None where nothing does.

        Raises:
            FloatingPointError: A term of an earlier step, or of this one, was not finite.
        """
        names = ("loss", *reduced.terms)
        ranks = world_size()
        parts = [reduced.total, *reduced.terms.values()]
        if ranks == 1 and all(part is reduced.total for part in parts):
            values = reduced.total.detach().expand(len(parts))
        else:
            values = torch.stack([part.detach() for part in parts])
        on_cpu = values.device.type == "cpu"
        flags = reduced.nonfinite
        # reading values makes a GPU wait, and costs less on a CPU than to look at them by torch
        if flags is None and on_cpu and not all(map(isfinite, values.tolist())):
            flags = values - values != 0
        if flags is not None:
            self.watch.add(names[-len(flags) :], flags, trainer.global_step)
        if objectives.logs:
            names += tuple(objectives.logs)
            values = torch.cat([values, _shares(objectives, reduced)])
        sums = self.means.update(names, values / ranks if ranks > 1 else values, reduced.rows)
        if flags is None and not on_cpu:
            self.watch.follow(names, sums, trainer.global_step)
        self._names, self._values = names, values
        step = logged_step(trainer)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        # 0 logs nothing
        log_now = (step + 1) % (every or 50) == 0
        # reading the flags waits for a GPU, so there it is done as rarely as logging
        if log_now or on_cpu:
            self.watch.check()
        if log_now and every and trainer.loggers:
            if ranks > 1:
                values = trainer.strategy.reduce(values, reduce_op="mean")
            # handed to the loggers at once: self.log costs more than a small network's step
            row: dict[str, float] = {"epoch": trainer.current_epoch}
            row |= {f"train/{n}": v for n, v in zip(names, values.tolist(), strict=True)}
            if combined_step is not None:
                row |= {f"train/{n}": v for n, v in combined_step.logs.items()}
            for logger in trainer.loggers:
                logger.log_metrics(row, step=step)


def _shares(objectives: Objectives, reduced: ReducedObjectives) -> Tensor:
    """Return this rank's share of the logs, times the number of ranks as the terms are."""
    scale = objectives.rows * world_size() / reduced.rows
    like = reduced.total.detach()
    logs = [torch.as_tensor(v, device=like.device).detach() for v in objectives.logs.values()]
    shares = torch.stack([value.to(like.dtype) for value in logs])
    if isinstance(scale, Tensor) or scale != 1:
        shares = shares * scale
    # a mean over no rows is NaN
    return shares.nan_to_num(0, posinf=0, neginf=0)

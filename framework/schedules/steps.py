"""How a schedule that says ``total_steps: auto`` learns the length of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


_run: ContextVar[tuple[Trainer, int] | None] = ContextVar("run", default=None)


@contextmanager
def total_steps_from(trainer: Trainer, start: int = 0) -> Iterator[None]:
    """Let schedules built inside the block read their length from ``trainer``.

    Args:
        trainer: Trainer of the run.
        start: Optimizer steps taken before the schedule begins.
    """
    token = _run.set((trainer, start))
    try:
        yield
    finally:
        _run.reset(token)


def resolve_total_steps(total_steps: int | str) -> int:
    """Return ``total_steps``, or the optimizer steps that the run still has for ``'auto'``.

    Raises:
        ValueError: no number of steps, or ``'auto'`` outside a run, in one without an end, or
            in one without a training batch.
    """
    if total_steps != "auto":
        if not isinstance(total_steps, int) or total_steps < 1:
            raise ValueError(f"total_steps must be 'auto' or at least 1, got {total_steps!r}.")
        return total_steps
    run = _run.get()
    if run is None:
        raise ValueError(
            "total_steps='auto' is filled in where a TrainingModule builds its schedule; in "
            "another LightningModule give total_steps=self.trainer.estimated_stepping_batches, in "
            "a loop of your own the number of optimizer steps."
        )
    trainer, start = run
    steps = trainer.estimated_stepping_batches
    if trainer.limit_train_batches == 0:
        raise ValueError(
            "trainer.limit_train_batches is 0, so that there is no step to take; leave it out, or "
            "use trimtab validate."
        )
    # Lightning says -1 for an iterable data set without max_steps
    if steps == float("inf") or steps < 0:
        raise ValueError("total_steps='auto' needs a run with an end; set max_epochs or max_steps.")
    return max(1, int(steps) - start)


def continues_run() -> bool:
    """Return whether a schedule that is being built gets the state of a checkpoint next."""
    run = _run.get()
    return run is not None and run[0].ckpt_path is not None

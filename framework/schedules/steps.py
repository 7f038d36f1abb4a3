"""How a schedule that says ``total_steps: auto`` learns the length of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from lightning.pytorch import Trainer

_trainer: ContextVar[Trainer | None] = ContextVar("trainer", default=None)


@contextmanager
def total_steps_from(trainer: Trainer) -> Iterator[None]:
    """Let schedules built inside the block read their length from ``trainer``."""
    token = _trainer.set(trainer)
    try:
        yield
    finally:
        _trainer.reset(token)


def resolve_total_steps(total_steps: int | str) -> int:
    """Return ``total_steps``, or the optimizer steps of the whole run for ``'auto'``.

    Raises:
        ValueError: ``'auto'`` outside a run or in one without an end.
    """
    if isinstance(total_steps, int):
        return total_steps
    trainer = _trainer.get()
    if trainer is None:
        raise ValueError("total_steps='auto' is known only inside a Trainer's run; give a number.")
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise ValueError("total_steps='auto' needs a run with an end; set max_epochs or max_steps.")
    return int(steps)

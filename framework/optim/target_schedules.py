"""How the step size in target space of SSO changes over its steps."""

from __future__ import annotations

from framework.utilities.checks import check_at_least, check_one_of

SCHEDULES = ("constant", "inverse_sqrt", "exponential", "adagrad")


def check_target_schedule(schedule: str, total_steps: int | None) -> None:
    """Raise ``ValueError`` for an unknown schedule, or an exponential one that has no end."""
    check_one_of(SCHEDULES, schedule=schedule)
    check_at_least(1, total_steps=total_steps)
    if schedule == "exponential" and total_steps is None:
        raise ValueError("schedule 'exponential' falls until total_steps, which is not set.")


def target_factor(
    schedule: str, step: int, total_steps: int | None = None, squares: float = 0.0
) -> float:
    r"""Return what the step size in target space is multiplied by.

    With t steps taken before: 1 for ``constant``, :math:`(t + 1)^{-1/2}` for ``inverse_sqrt``,
    :math:`T^{-t/T}` for ``exponential``, and :math:`(\sum \lVert g \rVert^2)^{-1/2}` over all
    steps, this one included, for ``adagrad``.

    Args:
        schedule: Name of the schedule.
        step: Number t of the steps before.
        total_steps: Number T of the steps of the run, for ``exponential``.
        squares: Sum of the squared norms of the gradients, for ``adagrad``.

    Example:
        >>> target_factor("inverse_sqrt", 3), target_factor("exponential", 100, total_steps=100)
        (0.5, 0.01)
    """
    if schedule == "inverse_sqrt":
        return float((step + 1) ** -0.5)
    if schedule == "exponential":
        assert total_steps is not None
        return float(total_steps ** -(step / total_steps))
    if schedule == "adagrad":
        return float(squares**-0.5) if squares > 0 else 1.0
    return 1.0

"""How many weights are removed when."""

from __future__ import annotations

from framework.utilities.checks import check_at_least, check_interval


def cubic_sparsity(step: int, start: int, end: int, sparsity: float, initial: float = 0.0) -> float:
    """Return the share of weights that are removed at a step: fast at first, and slower and slower.

    It is ``sparsity + (initial - sparsity) (1 - t)^3`` with t growing from 0 at ``start`` to 1 at
    ``end``; 0 before ``start``, and ``sparsity`` from ``end`` on.

    Paper: Zhu and Gupta, To prune, or not to prune, 2017, arXiv:1710.01878, equation 1.

    Args:
        step: Step or epoch, from 0.
        start: First step at which weights are removed.
        end: Step from which all are that will be.
        sparsity: Share that is removed in the end, in [0, 1).
        initial: Share that is removed at ``start``, where that is not ``end``.

    Raises:
        ValueError: A share is out of range, or ``end`` lies before ``start``.

    Example:
        >>> [round(cubic_sparsity(epoch, start=1, end=3, sparsity=0.8), 2) for epoch in range(5)]
        [0.0, 0.0, 0.7, 0.8, 0.8]
    """
    check_interval("[0, 1)", sparsity=sparsity, initial=initial)
    check_at_least(0, start=start)
    if end < start:
        raise ValueError(f"end must be at least start, {start}, got {end}.")
    if step < start:
        return 0.0
    if step >= end:
        return sparsity
    return sparsity + (initial - sparsity) * (1 - (step - start) / (end - start)) ** 3

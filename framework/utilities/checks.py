"""Checks of arguments, each with the same message for the same fault."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def check_at_least(minimum: float, **values: Any) -> None:
    """Raise ``ValueError`` unless every value is a finite number of at least ``minimum``.

    None, an argument that was left out, passes in this and the other checks.

    Example:
        >>> check_at_least(1, batch_size=32, max_epochs=None)
        >>> check_at_least(1, batch_size=0)
        Traceback (most recent call last):
        ValueError: batch_size must be at least 1, got 0.
    """
    for name, value in values.items():
        if value is not None and not minimum <= value < math.inf:
            raise ValueError(f"{name} must be {_finite(value)}at least {minimum}, got {value}.")


def check_positive(**values: Any) -> None:
    """Raise ``ValueError`` unless every value is a finite number above 0."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be {_finite(value)}positive, got {value}.")


def check_interval(interval: str, **values: Any) -> None:
    """Raise ``ValueError`` unless every value lies in an interval such as ``'[0, 1)'``.

    Example:
        >>> check_interval("[0, 1)", momentum=0.9)
        >>> check_interval("[0, 1)", momentum=1.0)
        Traceback (most recent call last):
        ValueError: momentum must lie in [0, 1), got 1.0.
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name, value in values.items():
        if value is None:
            continue
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{name} must lie in {interval}, got {value}.")


def check_one_of(allowed: Iterable[Any], **values: Any) -> None:
    """Raise ``ValueError`` unless every value is one of those that are allowed.

    Example:
        >>> check_one_of(("mean", "sum"), reduction="max")
        Traceback (most recent call last):
        ValueError: reduction must be one of mean, sum, got 'max'.
    """
    known = list(allowed)
    for name, value in values.items():
        if value is not None and value not in known:
            listed = ", ".join(str(item) for item in known)
            raise ValueError(f"{name} must be one of {listed}, got {value!r}.")


def _finite(value: float) -> str:
    return "" if math.isfinite(value) else "finite and "

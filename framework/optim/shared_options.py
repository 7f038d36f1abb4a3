"""Options that all groups of an optimizer share, as they say what is done with all parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def check_shared(groups: Sequence[Mapping[str, Any]], names: Iterable[str]) -> None:
    """Raise ``ValueError`` unless an option has one value in all groups.

    Args:
        groups: Groups of an optimizer.
        names: Names of the options.

    Example:
        >>> check_shared([{"c": 0.1, "lr": 1}, {"c": 0.1, "lr": 2}], ["c"])
        >>> check_shared([{"c": 0.1}, {"c": 0.2}], ["c"])
        Traceback (most recent call last):
        ValueError: c is one for all groups, got 0.1 and 0.2.
    """
    for name in names:
        first = groups[0][name]
        for group in groups[1:]:
            if group[name] != first:
                raise ValueError(f"{name} is one for all groups, got {first} and {group[name]}.")

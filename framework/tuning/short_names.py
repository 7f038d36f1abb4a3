"""Dotted names of settings as short as a person can tell them apart."""

from __future__ import annotations

from collections.abc import Sequence


def short_names(names: Sequence[str]) -> list[str]:
    """Return the last parts of dotted names, as many as tell them apart.

    Args:
        names: Names that differ.

    Example:
        >>> short_names(["model.lr", "model.head.lr", "data.batch_size"])
        ['model.lr', 'head.lr', 'batch_size']
    """
    short = []
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
        alone = (end for end in ends if sum(f".{n}".endswith(f".{end}") for n in names) == 1)
        short.append(next(alone, name))
    return short

"""Errors in the label files of a data set, raised or counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn


class LabelErrors:
    """Raises at the first fault, or leaves it out and counts how many there are of each kind.

    Args:
        strict: Whether to raise.

    Example:
        >>> faults = LabelErrors(strict=False)
        >>> faults.add("unknown class", "P0001.txt, line 3: boat is none of the classes ship.")
        >>> faults.kinds
        Counter({'unknown class': 1})
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.kinds: Counter[str] = Counter()
        self.first = ""

    def add(self, kind: str, message: str) -> None:
        """Raise, or count.

        Raises:
            ValueError: the message, and the way out, if ``strict``.
        """
        if self.strict:
            raise ValueError(f"{message.removesuffix('.')}; strict: false leaves it out.")
        self.first = self.first or message
        self.kinds[kind] += 1

    def warn(self, folder: Path) -> None:
        """Say how much of a folder is left out, if anything is."""
        if self.kinds:
            kinds = ", ".join(f"{kind}: {number}" for kind, number in self.kinds.items())
            rank_zero_warn(f"Faults of {folder} are left out ({kinds}). The first: {self.first}")

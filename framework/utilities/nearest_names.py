"""The known names that are nearest to one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """Return ``'; the nearest are a, b, c'`` for the end of a message, or nothing.

    Capital letters do not count, and of a dotted name only the last part does.

    Example:
        >>> nearest("AdamV", ["Adam", "AdamW", "SGD"])
        '; the nearest are Adam, AdamW'
    """
    names = list(known)
    lowered = [name.rpartition(".")[2].lower() for name in names]
    close = get_close_matches(word.rpartition(".")[2].lower(), lowered, n=count, cutoff=0.5)
    listed = dict.fromkeys(names[lowered.index(match)] for match in close)
    return f"; the nearest are {', '.join(listed)}" if listed else ""

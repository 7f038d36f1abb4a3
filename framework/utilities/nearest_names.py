"""The known names that are nearest to one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import takewhile
from operator import eq


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """Return ``'; the nearest are a, b, c'`` for the end of a message, or nothing.

    Capital letters do not count. Of dotted names the last parts are compared; where those are
    equally near, the whole names are, and then how much they have in common from the beginning.
    A name of which the word is the beginning is near, however long it is.

    Example:
        >>> nearest("AdamV", ["Adam", "AdamW", "SGD"])
        '; the nearest are Adam, AdamW'
    """

    def likeness(name: str) -> tuple[float, float, int]:
        pairs = (name.rpartition(".")[2], word.rpartition(".")[2]), (name, word)
        last, whole = (SequenceMatcher(None, a.lower(), b.lower()).ratio() for a, b in pairs)
        return last, whole, sum(takewhile(bool, map(eq, name.lower(), word.lower())))

    def is_near(name: str) -> bool:
        last = name.rpartition(".")[2].lower()
        return scores[name][0] >= 0.5 or (len(word) > 2 and last.startswith(word.lower()))

    scores = {name: likeness(name) for name in known if name != word}
    close = [name for name in scores if is_near(name)]
    close = sorted(close, key=lambda name: scores[name], reverse=True)[:count]
    return f"; the nearest are {', '.join(close)}" if close else ""

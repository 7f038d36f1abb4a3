"""What an error of a library says, as a part of our own message."""

from __future__ import annotations

LONGEST = 300
"""Characters of a reason."""


def reason_of(error: BaseException) -> str:
    r"""Return the text of an error in one line, cut and without its full stop.

    Example:
        >>> reason_of(ValueError("no\n  header.")), reason_of(EOFError())
        ('no header', 'EOFError')
    """
    return " ".join(str(error).split())[:LONGEST].rstrip(".") or type(error).__name__

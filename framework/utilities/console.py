"""What is printed for a person: text as it is, and nothing that a terminal obeys."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

# a name may also turn the direction of writing
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that are no text, such as those of names and files that a stranger made."""


def plain(text: str) -> str:
    r"""Return a text in which what a terminal would take for a command is spelled out.

    Example:
        >>> plain("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


class PlainConsole(Console):
    """Prints texts and tables without rich's markup, so that ``[relu]`` stays in a name.

    Example:
        >>> PlainConsole().print("activation=[relu]")
        activation=[relu]
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text to be printed."""
        return super().render_str(plain(text), **options)

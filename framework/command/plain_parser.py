"""The parser of the commands that are not Lightning's."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import NoReturn


class PlainParser(ArgumentParser):
    """An ``ArgumentParser`` that answers wrong input in one line, as the other commands do.

    Args:
        command: Name of the command.
        description: What it does.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"trimtab {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Write the message to stderr and exit with code 2."""
        sys.stderr.write(f"trimtab: {message}; see {self.prog} --help.\n")
        raise SystemExit(2)

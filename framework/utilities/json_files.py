"""JSON that comes from a file: plain values within limits, or one line that says why not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from framework.utilities.limits import check_size, memory_foreseen, open_file

BYTES_PER_CHARACTER = 32
"""Bytes that a character of a JSON text becomes at most, in lists of lists."""


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON in UTF-8, nested too deeply, has a number that is not finite, or
            would take more memory than the limit.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = path.write_text('{"k": [1, 2]}')
        >>> read_json(path)
        {'k': [1, 2]}
    """
    with open_file(path) as file, memory_foreseen(path):
        check_size(path, BYTES_PER_CHARACTER * os.fstat(file.fileno()).st_size, "its values")
        return parse_json(file.read(), path)


def parse_json(text: str | bytes, place: str | Path) -> Any:
    """Return the value of a JSON text.

    Args:
        text: Text.
        place: Name of the file, and line in it, for the message.

    Raises:
        ValueError: It is no JSON in UTF-8, nested too deeply, or has a number that is not finite.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}.") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")

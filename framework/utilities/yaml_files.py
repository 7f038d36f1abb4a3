"""YAML as data: what a text stands for is known, and limited, before it is built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from framework.utilities.error_reason import reason_of
from framework.utilities.limits import open_file

MAX_BYTES = 2**20
"""Bytes of a text, and of what its aliases stand for, written out."""
MAX_DEPTH = 100
"""Lists and mappings inside one another."""
MAX_DIGITS = 400
"""Characters of a number."""
_NUMBER = re.compile(r"[-+.0-9][\w.:+-]*")
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: str | Path) -> Any:
    """Return what a YAML file holds, within the limits of ``load_yaml``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML in UTF-8, or passes a limit.
    """
    return load_yaml(_read(Path(path), str(path)), str(path))


def yaml_text(path: str | Path, name: str) -> str:
    """Return the text of a YAML file, once it is known to keep the limits of ``load_yaml``.

    Args:
        path: File.
        name: Its name in messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML in UTF-8, or passes a limit.
    """
    text = _read(Path(path), name)
    with _messages(name):
        check_yaml(text, name)
    return text


def load_yaml(text: str, name: str) -> Any:
    r"""Return what a text in YAML stands for.

    Anchors, aliases and merge keys work; what they stand for counts as if it was written out.

    Args:
        text: Text.
        name: Name of its file, for the message.

    Raises:
        ValueError: It is no YAML, is larger than ``MAX_BYTES`` or nested deeper than ``MAX_DEPTH``,
            refers to itself, gives a key twice, names a tag, or has a number of more than
            ``MAX_DIGITS`` characters.

    Example:
        >>> load_yaml("small: &s {lr: 0.1}\nlarge: {<<: *s, decay: 0.5}", "a.yaml")["large"]
        {'lr': 0.1, 'decay': 0.5}
        >>> load_yaml("lr: 0.1\nlr: 0.2", "a.yaml")
        Traceback (most recent call last):
        ValueError: a.yaml: line 2: the key 'lr' is given twice.
    """
    with _messages(name):
        check_yaml(text, name)
        return yaml.load(text, Loader=_LOADER)


def _read(path: Path, name: str) -> str:
    with open_file(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(_too_large(name))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not in UTF-8: its byte {error.start} is not.") from None


def _too_large(name: str) -> str:
    return f"{name} is larger than {MAX_BYTES:,} bytes, the most that YAML may have."


@contextmanager
def _messages(name: str) -> Iterator[None]:
    """Turn what PyYAML says into one line that names the file."""
    try:
        yield
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {reason_of(error)}.") from None
    except ValueError as error:
        # such as a date that there is not
        said = str(error)
        raise ValueError(said if said.startswith(name) else f"{name}: {said}.") from None


@dataclass
class _Open:
    """A list or a mapping that has begun: what it holds so far, written out."""

    anchor: str | None
    size: int = 1
    keys: set[tuple[str, bool]] | None = None
    wants_key: bool = field(default=True)


def check_yaml(text: str, name: str) -> None:
    """Raise a ``ValueError`` if a text passes a limit of ``load_yaml``, and build nothing of it.

    Args:
        text: Text.
        name: Name of its file, for the message.

    Raises:
        ValueError: It passes a limit.
        yaml.YAMLError: It is no YAML.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(_too_large(name))
    # the sizes of what has an anchor, and what is open, the outermost first
    sizes: dict[str, int] = {}
    inside = [_Open(None)]
    for event in yaml.parse(text, Loader=_LOADER):
        refusal = None
        if isinstance(event, yaml.CollectionStartEvent):
            is_map = isinstance(event, yaml.MappingStartEvent)
            _take(inside[-1], 0, None)
            inside.append(_Open(event.anchor, keys=set() if is_map else None))
            if event.anchor is not None:
                sizes[event.anchor] = MAX_BYTES + 1  # until it is closed
            refusal = _refused_tag(event.tag)
            if len(inside) > MAX_DEPTH + 1:
                refusal = f"more than {MAX_DEPTH} lists and mappings inside one another"
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = inside.pop()
            inside[-1].size += closed.size
            if closed.anchor is not None:
                sizes[closed.anchor] = closed.size
        elif isinstance(event, yaml.ScalarEvent):
            size = len(event.value) + 1
            if event.anchor is not None:
                sizes[event.anchor] = size
            key = (event.value, not event.style)
            refusal = _refused_tag(event.tag) or _refused_number(event.value)
            if _take(inside[-1], size, key) and event.value != "<<":
                refusal = f"the key {event.value[:80]!r} is given twice"
        elif isinstance(event, yaml.AliasEvent):
            _take(inside[-1], sizes.get(event.anchor, 0), None)
        if inside[-1].size > MAX_BYTES:
            refusal = f"aliases stand for more than {MAX_BYTES:,} bytes, or for themselves"
        if refusal:
            raise ValueError(f"{name}: line {event.start_mark.line + 1}: {refusal}.")


def _take(parent: _Open, size: int, key: tuple[str, bool] | None) -> bool:
    """Count what stands in a list or a mapping; return whether it is a key that was there."""
    parent.size += size
    is_key = parent.keys is not None and parent.wants_key
    parent.wants_key = not parent.wants_key
    if not is_key or key is None:
        return False
    assert parent.keys is not None
    known = key in parent.keys
    parent.keys.add(key)
    return known


def _refused_tag(tag: str | None) -> str | None:
    if tag is None or tag == "!" or tag in _PLAIN_TAGS:
        return None
    return f"the tag {tag[:80]!r}, where plain values are allowed"


def _refused_number(text: str) -> str | None:
    if len(text) <= MAX_DIGITS or not _NUMBER.fullmatch(text):
        return None
    return f"a number of {len(text):,} characters, where {MAX_DIGITS} are allowed"

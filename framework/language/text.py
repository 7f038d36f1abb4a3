"""Texts read one after the other, and cut into contexts of equal length."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from framework.data.folders import find_files
from framework.utilities.json_files import BYTES_PER_CHARACTER, parse_json
from framework.utilities.limits import check_size, max_bytes, open_file

PYDOC = "pydoc"
SUFFIXES = (".txt", ".jsonl")
BLOCK = 1 << 20
"""Characters of a text file that are read at a time."""


def read_texts(source: str, field: str = "text") -> Iterator[str]:
    """Yield texts, holding no more than one at a time.

    Args:
        source: Source of the texts: ``pydoc``, the reference pages of the Python language that
            every CPython carries (465,000 characters); a ``.txt`` file in UTF-8, which is yielded
            in blocks that end with a line, unless that has more than ``BLOCK`` characters; a
            ``.jsonl`` file of one JSON object a line; or a
            folder, in which such files are looked for at any depth and read in the order of their
            paths; hidden ones are skipped.
        field: Field of a JSON object that holds the text.

    Raises:
        FileNotFoundError: there is no such file, or no text in the folder.
        ValueError: a file is not UTF-8, or a line is no JSON object with a text; the sentence names
            file and line.

    Example:
        >>> next(read_texts("pydoc")).split()[:3]
        ['The', '"assert"', 'statement']
    """
    if source == PYDOC:
        from pydoc_data.topics import topics

        yield from (topics[name] for name in sorted(topics))
        return
    for path in _files(Path(source).expanduser()):
        try:
            yield from (_objects(path, field) if path.suffix.lower() == ".jsonl" else _blocks(path))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}.") from None


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(find_files(path, SUFFIXES, f"file that ends in {' or '.join(SUFFIXES)}"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such text file or folder.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a text must end in {' or '.join(SUFFIXES)}.")
    return [path]


def _blocks(path: Path) -> Iterator[str]:
    with _opened(path) as file:
        while block := file.read(BLOCK):
            yield block + file.readline(BLOCK)


def _opened(path: Path) -> TextIO:
    return io.TextIOWrapper(open_file(path), encoding="utf-8")


def _objects(path: Path, field: str) -> Iterator[str]:
    longest = max_bytes() // BYTES_PER_CHARACTER
    with _opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(longest + 1), ""), start=1):
            if not line.strip():
                continue
            place = f"{path}, line {number}"
            check_size(place, len(line) * BYTES_PER_CHARACTER, "a line of this length")
            try:
                text = parse_json(line, place)[field]
            except (ValueError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise ValueError(
                    f"{path}, line {number} is no JSON object with a text under {field!r}."
                )
            yield text


def pack_tokens(
    texts: Iterable[str],
    tokenizer: Any,
    context_length: int,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    max_tokens: int | None = None,
) -> Tensor:
    """Join texts, and cut their tokens into contexts.

    What is left over at the end is left out. Text that looks like a special token is text.

    Args:
        texts: Texts, read until ``max_tokens`` are there.
        tokenizer: Tokenizer of ``transformers``.
        context_length: Length L of a context in tokens, with the special ones.
        prefix: Special tokens at the start of every context.
        suffix: Special tokens at the end of every context.
        max_tokens: Largest number of tokens of text; default all.

    Returns:
        (N, L) int32.

    Raises:
        ValueError: ``context_length`` leaves no room for text, or there is too little text.
    """
    room = context_length - len(prefix) - len(suffix)
    if room < 1:
        raise ValueError(
            f"context_length={context_length} leaves no room beside the "
            f"{len(prefix) + len(suffix)} special tokens."
        )
    parts: list[np.ndarray] = []
    tokens = 0
    stream = iter(texts)
    while batch := list(islice(stream, 64)):
        ids = tokenizer(batch, add_special_tokens=False, split_special_tokens=True, verbose=False)[
            "input_ids"
        ]
        parts.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32))
        tokens += len(parts[-1])
        if max_tokens is not None and tokens >= max_tokens:
            break
    flat = np.concatenate(parts)[:max_tokens] if parts else np.empty(0, np.int32)
    contexts = len(flat) // room
    if not contexts:
        raise ValueError(f"The text has {len(flat)} tokens, not enough for one context of {room}.")
    body = torch.from_numpy(flat[: contexts * room]).view(contexts, room)
    return torch.cat([_repeated(prefix, contexts), body, _repeated(suffix, contexts)], dim=1)


def _repeated(ids: Sequence[int], rows: int) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32).expand(rows, len(ids))

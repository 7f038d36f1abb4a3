"""The tokens of plain text: characters, or words between spaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from torch import Tensor

from framework.utilities.checks import check_at_least, check_one_of
from framework.utilities.limits import check_size

TokenLevel = Literal["character", "word"]
UNKNOWN = "<unk>"
"""Token of what a vocabulary lacks; its number is 0."""
END_OF_LINE = "<eos>"
"""Word that stands at the end of each line."""
BYTES_PER_TOKEN = 4
BYTES_PER_NAME = 200
"""Bytes that a distinct word takes beside its characters."""


class NumberedText(NamedTuple):
    """A text, its tokens numbered in the order in which they first come.

    Args:
        numbers: Numbers of the tokens, (N,) int32.
        names: Tokens, by number.
    """

    numbers: np.ndarray
    names: Sequence[str]


class Vocabulary:
    r"""Tokens that are known, by number; 0 is that of any other.

    At level ``word`` tokens are what stands between spaces, with ``<eos>`` at the end of each line,
    as in the language modeling sets Penn Treebank and WikiText; a word ``<unk>`` of theirs is 0.

    Args:
        tokens: Tokens by number, the first of them ``<unk>``.
        level: What a token is, ``character`` or ``word``.

    Raises:
        ValueError: The first token is another one, there is none beside it, or one comes twice;
            or ``level`` is neither.

    Example:
        >>> words = Vocabulary(["<unk>", "<eos>", "the", "cat"], "word")
        >>> words.encode("the dog the cat\n")
        tensor([2, 0, 2, 3, 1])
        >>> words.decode([2, 3, 1, 2])
        'the cat\nthe'
    """

    def __init__(self, tokens: Sequence[str], level: TokenLevel) -> None:
        check_one_of(get_args(TokenLevel), level=level)
        if len(tokens) < 2 or tokens[0] != UNKNOWN or len(set(tokens)) != len(tokens):
            raise ValueError(
                f"A vocabulary must be {UNKNOWN} and at least one other token, none of them twice; "
                f"it has {len(tokens)} that begin with {list(tokens[:3])}."
            )
        self.tokens = list(tokens)
        self.level: TokenLevel = level
        self._numbers = {token: number for number, token in enumerate(tokens)}

    @classmethod
    def of(cls, text: NumberedText, level: TokenLevel, size: int | None = None) -> Self:
        """Return the vocabulary of a text.

        Characters are in the order of their code points, words in that of their counts.

        Args:
            text: Text, whose names may be more than those in it.
            level: What a token is.
            size: Largest number of tokens, ``<unk>`` among them; the most frequent ones are kept.

        Raises:
            ValueError: ``size`` is below 2, or the text has no token but ``<unk>``.
        """
        check_at_least(2, size=size)
        counts = np.bincount(text.numbers, minlength=len(text.names))
        found = [
            (int(-counts[number]), text.names[number])
            for number in np.flatnonzero(counts).tolist()
            if text.names[number] != UNKNOWN
        ]
        kept = [name for _, name in sorted(found)[: None if size is None else size - 1]]
        return cls([UNKNOWN, *(sorted(kept) if level == "character" else kept)], level)

    def __len__(self) -> int:
        return len(self.tokens)

    def renumbered(self, text: NumberedText) -> Tensor:
        """Return the tokens of a text by their numbers in this vocabulary, (N,) int32."""
        table = np.array([self._numbers.get(name, 0) for name in text.names], dtype=np.int32)
        return torch.from_numpy(table[text.numbers])

    def encode(self, text: str) -> Tensor:
        """Return the numbers of the tokens of a text, (N,) int64."""
        return self.renumbered(number_text([text], self.level, "the text")).long()

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of tokens, words with a space between them."""
        tokens = [self.tokens[number] for number in numbers]
        if self.level == "character":
            return "".join(tokens)
        lines = " ".join("\n" if token == END_OF_LINE else token for token in tokens)
        return lines.replace(" \n", "\n").replace("\n ", "\n")


def number_text(blocks: Iterable[str], level: TokenLevel, source: object) -> NumberedText:
    """Number the tokens of a text.

    Args:
        blocks: Text in parts, which end between two words.
        level: What a token is.
        source: File or folder, for messages.

    Raises:
        FileTooLargeError: The tokens would take more memory than the limit.

    Example:
        >>> number_text(["abac"], "character", "a text")
        NumberedText(numbers=array([0, 1, 0, 2], dtype=int32), names=['a', 'b', 'c'])
    """
    known: dict[str, int] = {}
    parts: list[np.ndarray] = []
    tokens = 0
    for part in (_characters if level == "character" else _words)(blocks, known):
        parts.append(part)
        tokens += len(part)
        memory = BYTES_PER_TOKEN * tokens + BYTES_PER_NAME * len(known)
        check_size(str(source), memory, "its tokens")
    numbers = np.concatenate(parts) if parts else np.empty(0, np.int32)
    return NumberedText(numbers, list(known))


def _characters(blocks: Iterable[str], known: dict[str, int]) -> Iterator[np.ndarray]:
    for block in blocks:
        # what is no file may hold halves of a surrogate pair
        codes = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), np.uint32)
        _, first = np.unique(codes, return_index=True)
        table = np.empty(int(codes.max(initial=0)) + 1, np.int32)
        for code in codes[np.sort(first)].tolist():
            table[code] = known.setdefault(chr(code), len(known))
        yield table[codes]


def _words(blocks: Iterable[str], known: dict[str, int]) -> Iterator[np.ndarray]:
    for block in blocks:
        words = block.replace("\n", f" {END_OF_LINE} ").split()
        yield np.array([known.setdefault(word, len(known)) for word in words], np.int32)

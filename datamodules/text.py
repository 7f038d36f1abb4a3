"""Windows of plain text, for language models that learn from it alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack, get_args

import torch
from torch import Tensor

from framework.data.datamodule import BatchOptions, DataModule
from framework.data.datasets import Batch, BatchedDataset
from framework.data.facts import Facts
from framework.data.image_folders import PARTS
from framework.language.text import PYDOC, SUFFIXES, read_texts
from framework.language.vocabulary import NumberedText, TokenLevel, Vocabulary, number_text
from framework.utilities.checks import check_at_least, check_interval, check_one_of


class Windows(BatchedDataset):
    """Windows of equal length, one after the other, of a text.

    Args:
        tokens: Text, (N,) int32; what is less than a window at its end is left out.
        window: Tokens T of a window.

    Example:
        >>> windows = Windows(torch.arange(8), window=3)
        >>> len(windows), windows[1]["token"].tolist(), windows[1]["next_token"].tolist()
        (2, [3, 4, 5], [4, 5, 6])
    """

    def __init__(self, tokens: Tensor, window: int) -> None:
        self.tokens = tokens
        self.window = window

    def __len__(self) -> int:
        return max(len(self.tokens) - 1, 0) // self.window

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        first = self.window * torch.as_tensor(rows, dtype=torch.int64)
        found = self.tokens[first[:, None] + torch.arange(self.window + 1)].long()
        return {"token": found[:, :-1], "next_token": found[:, 1:]}


class TextWindows(DataModule):
    """Windows of a text, each token with the one that follows it.

    Batches hold ``token`` (B, T) int64, ``next_token`` (B, T) int64 and ``index`` (B,) int64, the
    number of the window in its part. Windows follow one another without a gap; the first tokens of
    the text train, those after them validate, the last ones test.

    A folder with files called ``train``, ``valid`` and ``test``, such as ``ptb.train.txt``, is
    divided as they are; in any other folder all texts are joined in the order of their paths. The
    vocabulary is that of the training part: what comes in others only is ``<unk>``. It is in the
    checkpoint; another text than that of the training is evaluated and predicted as a whole.

    The remaining arguments are those of ``DataModule``.

    Args:
        path: File ``.txt`` in UTF-8 or ``.jsonl``, or a folder of such files; or ``pydoc``, the
            pages of the Python language, which need no download.
        level: What a token is: ``character``, or ``word`` for what stands between spaces.
        window: Tokens T of a window.
        val_share: Share of the tokens for validation; 0 for none.
        test_share: Share of the tokens for the test; 0 for none.
        max_vocabulary: Largest number of tokens that are known, ``<unk>`` among them: the most
            frequent ones; default all.

    Raises:
        FileNotFoundError: No such file, or no text in the folder (at ``setup``).
        ValueError: Shares of 1 or more together; a file that is not UTF-8, a part without a whole
            window, or two files for one part (at ``setup``).

    Example:
        >>> data = TextWindows("pydoc", window=32, batch_size=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> {name: tuple(value.shape) for name, value in batch.items()}
        {'token': (16, 32), 'next_token': (16, 32), 'index': (16,)}
    """

    vocabulary: list[str]
    """Tokens by number; known after ``setup``, as the following is."""
    vocabulary_size: int

    def __init__(
        self,
        path: str,
        level: TokenLevel = "character",
        window: int = 70,
        val_share: float = 0.1,
        test_share: float = 0.1,
        max_vocabulary: int | None = None,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        check_one_of(get_args(TokenLevel), level=level)
        check_at_least(1, window=window)
        check_at_least(2, max_vocabulary=max_vocabulary)
        check_interval("[0, 1)", val_share=val_share, test_share=test_share)
        if val_share + test_share >= 1:
            raise ValueError(
                f"val_share={val_share} and test_share={test_share} leave nothing to train on."
            )
        self.path = path
        self.place = None if path == PYDOC else Path(path).expanduser()
        self.token_level: TokenLevel = level
        self.window = window
        self.val_share = val_share
        self.test_share = test_share
        self.max_vocabulary = max_vocabulary
        self._known: Vocabulary | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the text once, for all stages; all of a new text serves each of them."""
        new = self.is_elsewhere if stage == "predict" else self.is_new
        if stage in ("predict", "validate", "test") and new:
            if self.predict_set is None:
                self.use_facts(self.trained)
                assert self._known is not None
                text = self._numbered(self.path)
                self._check_length(len(text.numbers), self.path)
                self.val_set = self.test_set = self.predict_set = self._windows(text)
        elif self.train_set is None:
            self.use_facts(self.trained)
            self._divide()

    def use_facts(self, facts: Facts) -> None:
        """Take the vocabulary of the training; call it before ``setup``."""
        super().use_facts(facts)
        if "vocabulary" in facts:
            self._know(Vocabulary(facts["vocabulary"], facts["token_level"]))

    def _know(self, vocabulary: Vocabulary) -> None:
        self._known = vocabulary
        self.vocabulary = vocabulary.tokens
        self.vocabulary_size = len(vocabulary)
        self.token_level = vocabulary.level

    def as_batch(self, inputs: Any) -> Batch:
        """Return texts as a batch: one, or several of the same number of tokens."""
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if self._known is None:
            raise RuntimeError("There is no vocabulary yet: call setup('fit').")
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("A batch is made of a text, or of a list of texts.")
        rows = [self._known.encode(text) for text in texts]
        lengths = sorted({len(row) for row in rows})
        if len(lengths) > 1 or lengths[0] < 2:
            raise ValueError(
                f"Texts of one batch must have the same number of tokens, two at least; these have "
                f"{', '.join(map(str, lengths))}."
            )
        tokens = torch.stack(rows)
        return {"token": tokens[:, :-1], "next_token": tokens[:, 1:]}

    def _divide(self) -> None:
        """Read the parts, or hold them out, and make their sets."""
        files = part_files(self.place) if self.place is not None else {}
        texts = {part: self._numbered(path) for part, path in files.items()}
        shares = {} if texts else {"test": self.test_share}
        if not texts:
            texts["train"] = self._numbered(self.path)
        if "val" not in texts:
            shares["val"] = self.val_share
        total = len(texts["train"].numbers)
        for part, share in shares.items():
            if size := round(share * total):
                numbers, names = texts["train"]
                texts["train"] = NumberedText(numbers[:-size], names)
                texts[part] = NumberedText(numbers[-size:], names)
        for part, text in texts.items():
            self._check_length(len(text.numbers), f"{self.path}: the {part} part")
        if self._known is None:
            self._know(Vocabulary.of(texts["train"], self.token_level, self.max_vocabulary))
        sets = {part: self._windows(text) for part, text in texts.items()}
        self.train_set, self.val_set, self.test_set = map(sets.get, ("train", "val", "test"))
        self.predict_set = self.test_set or self.val_set

    def _numbered(self, path: str | Path) -> NumberedText:
        return number_text(read_texts(str(path)), self.token_level, path)

    def _windows(self, text: NumberedText) -> Windows:
        assert self._known is not None
        return Windows(self._known.renumbered(text), self.window)

    def _check_length(self, tokens: int, what: str) -> None:
        if tokens <= self.window:
            raise ValueError(
                f"{what} has {tokens} tokens, and a window of {self.window} with the token after "
                f"it needs {self.window + 1}: give a longer text, or set data.window."
            )


def part_files(folder: Path) -> dict[str, Path]:
    """Return the texts in a folder that are called as parts, such as ``ptb.train.txt``.

    Args:
        folder: Folder; what is none has no parts.

    Raises:
        FileNotFoundError: There are parts, but none to train on.
        ValueError: Two files are the same part.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        words = set(re.findall("[a-z]+", path.stem.lower()))
        part = next((part for part, names in PARTS.items() if words.intersection(names)), None)
        if part is None or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if part in found:
            raise ValueError(
                f"{found[part]} and {path} are both the {part} part: keep one, or name the other "
                "one otherwise."
            )
        found[part] = path
    if found and "train" not in found:
        raise FileNotFoundError(
            f"{folder} has {' and '.join(path.name for path in found.values())}, but no text "
            "called train."
        )
    return found

"""Lists of pairs of image files: LFW's ``pairs.txt``, and tables with a decision a row."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from framework.data.folders import existing_file, subfolders
from framework.embedding.pairs import Pairs
from framework.utilities.files import path_below
from framework.utilities.limits import read_text, whole_number

BYTES_PER_CHARACTER = 64
ENDINGS = (".jpg", ".png", ".jpeg", ".bmp", ".pgm")
"""Endings that the images of LFW are looked for with."""
DECISIONS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
COLUMNS = ("file_x", "file_y", "decision")
MOST_FOLDS = 10


class PairFiles(NamedTuple):
    """Pairs of image files.

    Args:
        paths: Files of the images, each once.
        pairs: Pairs of their positions.
    """

    paths: list[Path]
    pairs: Pairs


def read_lfw_pairs(path: Path) -> PairFiles:
    """Read a list in the form of LFW's ``pairs.txt``, in its order and folds.

    Its first line has the number of folds and that of pairs of one person in each, or only the
    latter (``pairsDevTrain.txt``). In each fold follow as many lines ``name i j``, pairs of one
    person, and then ``name i name j``, of two. Image ``i`` of a person is ``name/name_000i.jpg``
    (or another of ``ENDINGS``) beside the list, or in one of the folders beside it.

    Args:
        path: Text file.

    Raises:
        FileNotFoundError: no such file, or an image that it names.
        ValueError: by line, another number of lines or of words; or a name that leads elsewhere.
    """
    lines = [_words(line) for line in _lines(path)]
    counts = [_number(word, f"{path}, line 1") for word in lines[0]]
    if len(counts) not in (1, 2) or min(counts) < 1:
        raise ValueError(f"{path}, line 1: one or two numbers above 0 are expected.")
    folds, half = (1, *counts)[-2:]
    if len(lines) - 1 != 2 * folds * half:
        raise ValueError(
            f"{path} has {len(lines) - 1} pairs, and its first line says 2 x {folds * half}."
        )
    names: list[tuple[str, str]] = []
    for number, words in enumerate(lines[1:]):
        place = f"{path}, line {number + 2}"
        wanted = 3 if number // half % 2 == 0 else 4
        if len(words) != wanted:
            what = "a pair of one person" if wanted == 3 else "a pair of two persons"
            raise ValueError(f"{place}: {wanted} words, {what}, are expected, not {len(words)}.")
        one, other = words[0], words[-2] if wanted == 4 else words[0]
        names.append((_image(one, words[1], place), _image(other, words[-1], place)))
    same = [number // half % 2 == 0 for number in range(len(names))]
    folder, ending = _folder_of(path, names[0][0])
    return _pair_files(names, same, lambda name: path_below(folder, name + ending, path), folds)


def read_pair_table(path: Path) -> PairFiles:
    """Read a table of pairs with the columns ``file_x``, ``file_y`` and ``Decision``.

    A decision is yes or no, true or false, 1 or 0; files lie in the folder of the table. The pairs
    are put into ten folds in their order, or in as many as there are pairs.

    Args:
        path: Table, a ``.csv`` file.

    Raises:
        FileNotFoundError: no such file, or an image that it names.
        ValueError: by line, a column or a value that is missing or unknown; or a name that leads
            elsewhere.
    """
    try:
        rows = list(csv.reader(_lines(path)))
    except csv.Error as error:
        raise ValueError(f"{path} is not a table: {error}.") from None
    header = [word.strip().lower() for word in rows[0]]
    missing = [column for column in COLUMNS if column not in header]
    if missing or len(rows) == 1:
        found = f"lacks the column {missing[0]}" if missing else "has no rows"
        raise ValueError(f"{path} {found}: file_x,file_y,Decision are expected.")
    columns = [header.index(column) for column in COLUMNS]
    names, same = [], []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: {len(header)} values are expected.")
        one, other, decision = (row[column].strip() for column in columns)
        if decision.lower() not in DECISIONS:
            raise ValueError(f"{path}, line {number}: {decision[:40]!r} is neither yes nor no.")
        names.append((one, other))
        same.append(DECISIONS[decision.lower()])
    return _pair_files(
        names, same, lambda name: path_below(path.parent, name, path), min(MOST_FOLDS, len(same))
    )


def _lines(path: Path) -> list[str]:
    """Return the lines of a text without the empty ones at its end; at least one."""
    lines = read_text(existing_file(path), BYTES_PER_CHARACTER, "its pairs").rstrip().splitlines()
    if not lines:
        raise ValueError(f"{path} is empty.")
    return lines


def _words(line: str) -> list[str]:
    """Return the words of a line, of which names may hold spaces where tabs divide them."""
    return [word.strip() for word in line.strip().split("\t" if "\t" in line else None)]


def _number(word: str, place: str) -> int:
    number = whole_number(word)
    if number is None:
        raise ValueError(f"{place}: {word[:40]!r} is no number.")
    return number


def _image(name: str, number: str, place: str) -> str:
    return f"{name}/{name}_{_number(number, place):04d}"


def _folder_of(path: Path, first: str) -> tuple[Path, str]:
    """Return the folder in which the first image lies, and the ending of its name."""
    for folder in (path.parent, *subfolders(path.parent)):
        for ending in ENDINGS:
            with suppress(FileNotFoundError):
                existing_file(path_below(folder, first + ending, path))
                return folder, ending
    raise FileNotFoundError(
        f"{path} names {first[:200]}.jpg, which lies neither beside it nor in a folder beside it."
    )


def _pair_files(
    names: Sequence[tuple[str, str]],
    same: Iterable[bool],
    path_of: Callable[[str], Path],
    num_folds: int,
) -> PairFiles:
    place: dict[str, int] = {}
    pairs = torch.tensor([[place.setdefault(name, len(place)) for name in pair] for pair in names])
    paths = [existing_file(path_of(name)) for name in place]
    return PairFiles(
        paths,
        Pairs(first=pairs[:, 0], second=pairs[:, 1], same=torch.tensor(same), num_folds=num_folds),
    )

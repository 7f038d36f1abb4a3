"""Class labels from files, and the check that they are inside the classes."""

from __future__ import annotations

from array import array
from codecs import BOM_UTF8
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.array_files import read_npy
from framework.utilities.limits import check_size, memory_foreseen, open_file
from framework.utilities.tensor_archive import load_archive

_LONGEST = 1 << 10
"""Bytes of the longest line of a label file."""


def check_labels(labels: Tensor, num_classes: int, source: str | Path) -> None:
    """Raise a ValueError that names the first position whose label is not in 0..num_classes-1."""
    outside = torch.nonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        item = int(outside[0])
        raise ValueError(
            f"{source}: item {item} has the label {int(labels[item])}, which is outside the "
            f"{num_classes} classes 0..{num_classes - 1}."
        )


def read_labels(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the columns of a label file.

    Args:
        path: Label file: ``.npy`` with one integer array, ``.txt`` or ``.csv`` with one class
            number a line, or ``.pt`` with a dict of arrays such as CIFAR-10N's.
        key: Column of the file, needed for ``.pt`` and refused for the others.

    Returns:
        ``{"label": (N,) int64}``, and ``"clean_label"`` too where the file has it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file type, a damaged file, a line that is not a number, no such column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such label file.")
    if path.suffix == ".pt":
        return _read_columns(path, key)
    if key is not None:
        raise ValueError(f"{path} has a single column, so key={key!r} must be left out.")
    if path.suffix == ".npy":
        return {"label": _integers(read_npy(path), path)}
    if path.suffix in (".txt", ".csv"):
        return {"label": _read_lines(path)}
    raise ValueError(f"{path}: label files are .npy, .txt, .csv or .pt.")


def class_numbers(stored: np.ndarray, rows: int, source: str | Path, each: str) -> np.ndarray:
    """Return labels (N,) int64 from 0 of an array of numbers from 0 or 1, in any type.

    Args:
        stored: Array of N numbers, of which at most one axis is longer than 1.
        rows: Number N of samples.
        source: File, and array in it, for the message.
        each: What has a number, for the message.

    Raises:
        ValueError: Another number of them, or what is no class number: N is the largest.

    Example:
        >>> class_numbers(np.array([[1.0], [3.0], [1.0]]), 3, "a.mat", "row")
        array([0, 2, 0])
    """
    if stored.size != rows or max(stored.shape) != rows:
        raise ValueError(
            f"{source} must be {rows} numbers, one for each {each}, not of shape {stored.shape}."
        )
    numbers = stored.ravel().astype(np.float64)
    bad = np.flatnonzero(~((numbers >= 0) & (numbers <= rows) & (numbers % 1 == 0)))
    if len(bad):
        raise ValueError(f"{source}: item {bad[0] + 1} is {numbers[bad[0]]:g}, no class number.")
    first = numbers.min()
    if first > 1:
        raise ValueError(f"{source}: class numbers start at 0 or 1, not at {first:g}.")
    return numbers.astype(np.int64) - int(first)


def _read_columns(path: Path, key: str | None) -> dict[str, Tensor]:
    columns = load_archive(path)
    if not isinstance(columns, dict):
        raise ValueError(f"{path} holds a {type(columns).__name__} instead of a dict of arrays.")
    if key not in columns:
        raise ValueError(f"{path} has no column {key!r}; it has {', '.join(map(repr, columns))}.")
    found = {"label": _integers(columns[key], path)}
    if "clean_label" in columns:
        found["clean_label"] = _integers(columns["clean_label"], path)
    return found


def _read_lines(path: Path) -> Tensor:
    labels = array("q")
    empty = 0  # first of the empty lines, which only the end may have
    with open_file(path) as file, memory_foreseen(path):
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), start=1):
            if line.isspace():
                empty = empty or number
                continue
            content = b"" if empty else line.removeprefix(BOM_UTF8 if number == 1 else b"")
            try:
                labels.append(int(content.decode()))
            except (ValueError, OverflowError):
                text = content.decode(errors="replace").rstrip("\r\n")[:40]
                raise ValueError(
                    f"{path}, line {empty or number}: {text!r} is not a class number."
                ) from None
    return torch.tensor(labels, dtype=torch.int64)


def _integers(values: object, path: Path) -> Tensor:
    if not isinstance(values, (np.ndarray, Tensor)):
        values = plain_integers(values, path)
    found = np.asarray(values)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must hold one row of integers, not {found.dtype} of shape {found.shape}."
        )
    check_size(path, 8 * found.size, "its labels", stored=path.stat().st_size)
    return torch.from_numpy(found.astype(np.int64))


def plain_integers(values: object, source: str | Path) -> np.ndarray:
    """Return a list of integers as an array; of nested lists NumPy might make more than there is.

    Raises:
        ValueError: It is anything else.
    """
    if not isinstance(values, (list, tuple)) or not all(type(value) is int for value in values):
        raise ValueError(
            f"{source} must be a list of integers, not a {type(values).__name__} of others."
        )
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        raise ValueError(f"{source} holds an integer of more than 64 bits.") from None

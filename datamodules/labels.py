"""Class labels from files, and the check that they are inside the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framework.data.restricted_pickle import load_torch


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
        return {"label": _integers(_read_npy(path), path)}
    if path.suffix in (".txt", ".csv"):
        return {"label": _read_lines(path)}
    raise ValueError(f"{path}: label files are .npy, .txt, .csv or .pt.")


def _read_columns(path: Path, key: str | None) -> dict[str, Tensor]:
    columns = load_torch(path)
    if not isinstance(columns, dict):
        raise ValueError(f"{path} holds a {type(columns).__name__} instead of a dict of arrays.")
    if key not in columns:
        raise ValueError(f"{path} has no column {key!r}; it has {', '.join(map(repr, columns))}.")
    found = {"label": _integers(columns[key], path)}
    if "clean_label" in columns:
        found["clean_label"] = _integers(columns["clean_label"], path)
    return found


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a complete .npy file of numbers: {error}") from None


def _read_lines(path: Path) -> Tensor:
    labels = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            labels.append(int(line))
        except ValueError:
            raise ValueError(f"{path}, line {number}: {line!r} is not a class number.") from None
    return torch.tensor(labels, dtype=torch.int64)


def _integers(values: object, path: Path) -> Tensor:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must hold one row of integers, not {array.dtype} of shape {array.shape}."
        )
    return torch.from_numpy(array.astype(np.int64))

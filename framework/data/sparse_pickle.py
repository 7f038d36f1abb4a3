"""Pickled sparse matrices, read as their plain arrays: SciPy is not asked to make anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.data.restricted_pickle import load_pickle
from framework.utilities.limits import check_size, memory_foreseen


class _SparseRows:
    """Attributes of a matrix in compressed rows, as the file stores them."""


_NAMES = [
    f"scipy.sparse.{module}.{kind}"
    for module, kinds in (
        ("csr", ("csr_matrix",)),
        ("_csr", ("csr_matrix", "csr_array")),
    )
    for kind in kinds
]
"""Names that SciPy's versions pickle their class by."""


def load_sparse_rows(path: str | Path) -> Tensor:
    """Read a pickled SciPy matrix in compressed rows (CSR), with its zeros filled in.

    The pickle is read by ``load_pickle``, so that it runs nothing, and its parts are compared with
    one another before the matrix is made. Entries that are stored twice are added, as in SciPy.

    Args:
        path: Pickle file.

    Returns:
        (N, F) float32.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is damaged, holds something else, its parts contradict one another, or it
            would take too much memory.

    Example:
        >>> import pickle, tempfile, scipy
        >>> path = Path(tempfile.mkdtemp(), "x")
        >>> _ = path.write_bytes(pickle.dumps(scipy.sparse.csr_matrix([[0, 2], [0, 0]])))
        >>> load_sparse_rows(path)
        tensor([[0., 2.],
                [0., 0.]])
    """
    found = load_pickle(path, allowed=dict.fromkeys(_NAMES, _SparseRows))
    if type(found) is not _SparseRows:
        raise ValueError(f"{path} must hold a sparse matrix, not a {type(found).__name__}.")
    parts = vars(found)
    rows, columns = _shape(parts.get("_shape"), path)
    pointers, indices, values = (
        _array(parts, name, path) for name in ("indptr", "indices", "data")
    )
    if (
        len(pointers) != rows + 1
        or pointers[0] != 0
        or pointers[-1] != len(indices)
        or len(indices) != len(values)
        # outside of it lengths overflow to what fits, and NumPy would write beyond its memory
        or pointers.min() < 0
        or pointers.max() > len(indices)
        or (np.diff(pointers) < 0).any()
    ):
        raise ValueError(f"{path}: the rows of its sparse matrix do not fit its entries.")
    if len(indices) and not 0 <= indices.min() <= indices.max() < columns:
        raise ValueError(
            f"{path}: an entry of its sparse matrix lies outside its {columns} columns."
        )
    check_size(path, 4 * rows * columns, "its matrix with the zeros filled in")
    with memory_foreseen(path), np.errstate(over="ignore"):
        matrix = np.zeros((rows, columns), np.float32)
        row = np.repeat(np.arange(rows), np.diff(pointers))
        np.add.at(matrix, (row, indices), values.astype(np.float32))
    if not np.isfinite(matrix).all():
        raise ValueError(f"{path}: its sparse matrix has an entry that is no finite number.")
    return torch.from_numpy(matrix)


def _shape(shape: Any, path: str | Path) -> tuple[int, int]:
    right = type(shape) is tuple and len(shape) == 2 and all(type(n) is int for n in shape)
    if not right or min(shape) < 1 or max(shape) > 2**40:
        raise ValueError(f"{path}: its sparse matrix has no shape of rows and columns.")
    return shape


def _array(parts: dict[str, Any], name: str, path: str | Path) -> np.ndarray:
    values = parts.get(name)
    # SciPy has no shorter indices, which would grow by as much as they are shorter
    kinds = "biuf" if name == "data" else "i"
    least = 1 if name == "data" else 4
    if (
        not isinstance(values, np.ndarray)
        or values.ndim != 1
        or values.dtype.kind not in kinds
        or values.itemsize < least
    ):
        raise ValueError(f"{path}: its sparse matrix has no array {name} of numbers.")
    return values if name == "data" else values.astype(np.int64)

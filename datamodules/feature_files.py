"""Features and class numbers of files of several kinds, read by readers that know their sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.array_files import read_arrays
from datamodules.hdf5_arrays import find_dataset, open_hdf5
from datamodules.mat_file import read_mat
from datamodules.table_reader import OPENERS, read_table
from framework.utilities.limits import check_size
from framework.utilities.nearest_names import nearest

ARRAYS = (".npy", ".npz", ".mat", ".h5", ".hdf5")
TABLES = (".csv", ".txt", ".parquet")


def read_numbers(path: Path, key: str | None = None) -> np.ndarray:
    """Return an array of real numbers of a file, of the type that it is stored in.

    Args:
        path: NumPy's ``.npy`` or ``.npz``, MATLAB's ``.mat`` (version 5 to 7.2), HDF5's ``.h5`` or
            ``.hdf5``, or a table, ``.csv``, ``.txt`` or ``.parquet``, whose columns become those of
            a matrix of float64.
        key: Name of the array in ``.npz``, ``.mat`` and HDF5; a ``.npz`` of one needs none.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: HDF5 without ``h5py``, or Parquet without ``pyarrow``.
        ValueError: A file of another kind or a damaged one, no such array, one that holds no real
            numbers, or more than the limit; the message names the file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.npz"
        >>> np.savez(path, image=np.zeros((2, 3)), text=np.ones((2, 4)))
        >>> read_numbers(path, "text").shape
        (2, 4)
    """
    inner = path.with_suffix("").suffix if path.suffix in OPENERS else path.suffix
    if inner not in (*ARRAYS, *TABLES):
        raise ValueError(f"{path}: features end in {', '.join((*ARRAYS, *TABLES))}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of features.")
    if inner in TABLES or inner == ".npy":
        if key is not None:
            raise ValueError(f"{path} holds one array without a name: drop the key {key!r}.")
        values = read_arrays(path).popitem()[1] if inner == ".npy" else _table(path)
    elif inner == ".npz":
        values = _of_npz(path, key)
    elif key is None:
        raise ValueError(f"{path} may hold several arrays: name the one to read by its key.")
    elif inner == ".mat":
        values = read_mat(path, [key])[key]
    else:
        values = _of_hdf5(path, key)
    if values.dtype.kind not in "fiub" or not values.size:
        raise ValueError(
            f"{path} must hold real numbers, not {values.dtype} of shape {values.shape}."
        )
    return values


def read_features(path: Path, key: str | None = None) -> np.ndarray:
    """Return features (N, D) float32, all of them finite; see ``read_numbers``.

    Raises:
        ValueError: Another shape, or a number that is not finite in float32; see also there.
    """
    stored = read_numbers(path, key)
    if stored.ndim != 2:
        raise ValueError(f"{path}: features are rows (N, D), not of shape {stored.shape}.")
    check_size(path, 4 * stored.size, "its features", stored=stored.nbytes)
    with np.errstate(over="ignore"):  # what becomes infinite is named below
        rows = stored.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(bad):
        raise ValueError(f"{path}: row {bad[0] + 1:,} of {len(rows):,} is not finite.")
    return rows


def _table(path: Path) -> np.ndarray:
    table = read_table(path)
    return np.stack([table.numbers(column) for column in range(len(table.names))], axis=1)


def _of_npz(path: Path, key: str | None) -> np.ndarray:
    found = read_arrays(path, lambda name: key is None or name == key)
    if key is None and len(found) != 1:
        raise ValueError(
            f"{path} has the arrays {', '.join(list(found)[:10])}: name the one to read by its key."
        )
    if key is not None and key not in found:
        raise ValueError(f"{path} has no array {key!r}.")
    return next(iter(found.values()))


def _of_hdf5(path: Path, key: str) -> np.ndarray:
    with open_hdf5(path) as file:
        found = find_dataset(file, key)
        if found is None:
            raise ValueError(f"{path} has no data set {key!r}{nearest(key, list(file))}.")
        if found.dtype.kind not in "fiub":
            raise ValueError(f"{path}, {key} must hold real numbers, not {found.dtype}.")
        return found[()]

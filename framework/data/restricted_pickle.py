"""Readers of pickled data sets that cannot run code: NumPy arrays and plain containers only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from framework.utilities.array_pickle import ARRAY_STATES, ARRAYS
from framework.utilities.error_reason import reason_of
from framework.utilities.limits import FileTooLargeError, memory_foreseen, open_file
from framework.utilities.plain_pickle import (
    PLAIN,
    Constructor,
    MoreThanDataError,
    read_plain_pickle,
)
from framework.utilities.plain_tree import PlainTree


def load_pickle(
    path: str | Path, encoding: str = "latin1", allowed: Mapping[str, type] | None = None
) -> Any:
    """Read a pickle that holds NumPy arrays, NumPy scalars and plain containers.

    Nothing is imported by name, so a file cannot run code, and it takes at most the memory that is
    stored in it, or the limit of ``framework.utilities.limits`` where that is more. A pickle has
    no checksum: damage that leaves it readable goes unseen.

    Args:
        path: Pickle file.
        encoding: Encoding of byte strings written by Python 2; ``"bytes"`` keeps them as bytes.
        allowed: Further classes by the full name that the file uses, such as
            ``{"scipy.sparse.csr.csr_matrix": scipy.sparse.csr_matrix}``; the file may call them
            and set attributes of their objects.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file asks for another class, is not a complete pickle, or would take too
            much memory.

    Example:
        >>> import pickle, tempfile, numpy, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "batch")
        >>> _ = path.write_bytes(pickle.dumps({"labels": numpy.arange(3)}))
        >>> load_pickle(path)["labels"].tolist()
        [0, 1, 2]
    """
    path, classes = Path(path), dict(allowed or {})
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    kinds = tuple(classes.values())
    names = {
        name: Constructor(kind, kind, partial(kind.__new__, kind)) for name, kind in classes.items()
    }
    states = {**ARRAY_STATES, **dict.fromkeys(kinds, _set_attributes)}
    with open_file(path) as file, memory_foreseen(path):
        try:
            found = read_plain_pickle(
                file, path, {**PLAIN, **ARRAYS, **names}, states=states, encoding=encoding
            )
            PlainTree(found, kinds).check(path, path.stat().st_size)
        except MoreThanDataError as name:
            raise ValueError(
                f"{path} holds more than arrays and plain containers (it names {name}) and was not "
                "loaded."
            ) from None
        except (MemoryError, FileTooLargeError):
            raise
        except Exception as error:  # a damaged stream can raise anything
            reason = reason_of(error)
            raise ValueError(
                f"{path} is damaged or incomplete near byte {file.tell():,}: {reason}."
            ) from None
        return found


def _set_attributes(target: Any, state: Any) -> None:
    if type(state) is not dict or not all(type(name) is str for name in state):
        raise TypeError("a state is no dict of attributes")
    vars(target).update(state)

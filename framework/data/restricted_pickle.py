"""Readers of pickled data sets that cannot run code: NumPy arrays and plain containers only."""

from __future__ import annotations

import collections
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

_reconstruct, _scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
_frombuffer = np.empty(1).__reduce_ex__(5)[0]

_NUMPY: dict[str, Any] = {
    # NumPy 2 moved its core, and files keep the name of the version that wrote them
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
}


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, by which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode(encoding)


_PLAIN: dict[str, Any] = {
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("builtins", "__builtin__")
        for kind in (list, dict, tuple, set, frozenset, bytearray, complex)
    },
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "_codecs.encode": _latin1,
}


class _RefusedError(Exception):
    """A pickle asked for a class that is not on the list."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], encoding: str, allowed: Mapping[str, Any]) -> None:
        super().__init__(file, encoding=encoding)
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self.allowed:
            raise _RefusedError(full_name)
        return self.allowed[full_name]


def load_pickle(
    path: str | Path, encoding: str = "latin1", allowed: Mapping[str, Any] | None = None
) -> Any:
    """Read a pickle that holds NumPy arrays, NumPy scalars and plain containers.

    Nothing is imported by name, so a file cannot run code.

    Args:
        path: Pickle file.
        encoding: Encoding of byte strings written by Python 2; ``"bytes"`` keeps them as bytes.
        allowed: Further classes by the full name that the file uses, such as
            ``{"scipy.sparse.csr.csr_matrix": scipy.sparse.csr_matrix}``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file asks for another class, or is not a complete pickle.

    Example:
        >>> import pickle, tempfile, numpy, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "batch")
        >>> _ = path.write_bytes(pickle.dumps({"labels": numpy.arange(3)}))
        >>> load_pickle(path)["labels"].tolist()
        [0, 1, 2]
    """
    with _open(path) as file:
        try:
            return _Unpickler(file, encoding, {**_NUMPY, **_PLAIN, **(allowed or {})}).load()
        except _RefusedError as refused:
            raise _refusal(path, str(refused)) from None
        except Exception as error:  # a damaged stream can raise anything
            raise _damage(path, file.tell(), error) from None


def load_torch(path: str | Path) -> Any:
    """Read a file of ``torch.save`` that holds tensors, NumPy arrays and plain containers.

    This is ``torch.load(weights_only=True)`` that also knows NumPy arrays.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file asks for another class, or is damaged.

    Example:
        >>> import tempfile, numpy, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "labels.pt")
        >>> torch.save({"worse_label": numpy.arange(3)}, path)
        >>> load_torch(path)["worse_label"].tolist()
        [0, 1, 2]
    """
    dtypes = [type(np.dtype(code)) for code in np.typecodes["All"]]
    named = [(value, name) for name, value in _NUMPY.items()]
    with _open(path) as file, torch.serialization.safe_globals([*named, *dtypes]):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged stream can raise anything
            unknown = re.search(r"GLOBAL (\S+)", str(error))
            if unknown:
                raise _refusal(path, unknown[1]) from None
            raise _damage(path, file.tell(), error) from None


def _open(path: str | Path) -> IO[bytes]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    return open(path, "rb")


def _refusal(path: str | Path, name: str) -> ValueError:
    return ValueError(
        f"{path} asks for {name}, and only NumPy arrays and plain containers are read from a "
        "pickled data set."
    )


def _damage(path: str | Path, position: int, error: Exception) -> ValueError:
    reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    if reason.startswith("Weights only load failed"):  # torch goes on to advise unsafe reading
        reason = "the content is not what torch.save writes"
    return ValueError(f"{path} is damaged or incomplete near byte {position:,}: {reason}.")

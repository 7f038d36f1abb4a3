"""NumPy arrays and scalars in pickles; their parts are checked before NumPy sees them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from framework.utilities.plain_pickle import Constructor, encoded, no_call

_ARRAY = Constructor(no_call, np.ndarray)
_SCALAR: Any = np.float64(0).__reduce__()[0]


def _text(value: Any) -> Any:
    return value.decode("latin1") if type(value) is bytes else value


def _dtype(code: Any, *_: Any) -> np.dtype[Any]:
    # no fields: NumPy believes what a pickle says of objects in them; no sizes without a limit
    code = _text(code)
    if type(code) is not str or not re.fullmatch(r"[<>=|]?[biufcSUO]\d{1,4}", code, re.ASCII):
        raise TypeError(f"an array is of the data type {ascii(code)[:100]}")
    return np.dtype(code, copy=True)


def _set_dtype_state(dtype: np.dtype[Any], state: Any) -> None:
    if type(state) is not tuple or len(state) != 8:
        raise TypeError("a data type has a state of another kind")
    plain = tuple(_text(part) for part in state)
    if (
        plain[1] not in ("<", ">", "|", "=")
        or plain != dtype.newbyteorder(plain[1]).__reduce__()[2]
    ):
        raise ValueError("a data type has another state than its name says")
    dtype.__setstate__(plain)  # type: ignore[attr-defined]


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
        raise TypeError("an array has a shape that is none")
    return shape


def _checked_content(dtype: Any, shape: Any, content: Any) -> Any:
    if not isinstance(dtype, np.dtype):
        raise TypeError("an array has a data type that is none")
    items = math.prod(_shape(shape))
    if dtype.hasobject:
        right = type(content) is list and len(content) == items
    else:
        content = encoded(content) if type(content) is str else content
        right = type(content) in (bytes, bytearray) and len(content) == items * dtype.itemsize
    if not right:
        raise ValueError(f"an array of the shape {shape} has another number of values")
    return content


def _reconstruct(kind: Any, *_: Any) -> np.ndarray:
    if kind is not _ARRAY:
        raise TypeError("an array is of another class")
    # its state follows, with shape and data type
    return np.empty(0, dtype=np.int8)


def _set_array_state(array: np.ndarray, state: Any) -> None:
    _, shape, dtype, fortran, content = state
    content = _checked_content(dtype, shape, content)
    # numpy's stubs know no order that is a plain bool
    set_state: Any = array.__setstate__
    set_state((1, shape, dtype, bool(fortran), content))


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    content = _checked_content(dtype, shape, content)
    # a copy may be written to, as unpickled arrays may
    flat = np.frombuffer(bytearray(content), dtype=dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, content: Any) -> Any:
    content = _checked_content(dtype, (), content)
    if dtype.hasobject:
        raise TypeError("a number is an object")
    return _SCALAR(dtype, bytes(content))


ARRAYS: dict[str, Any] = {
    # NumPy 2 moved its core, and files keep the name of the version that wrote them
    f"numpy.{core}.{name}": Constructor(build)
    for core in ("core", "_core")
    for name, build in (
        ("multiarray._reconstruct", _reconstruct),
        ("multiarray.scalar", _scalar),
        ("numeric._frombuffer", _frombuffer),
    )
} | {"numpy.ndarray": _ARRAY, "numpy.dtype": Constructor(_dtype)}
"""Names of arrays, scalars and data types, as NumPy 1 and 2 write them."""
ARRAY_STATES: dict[type, Callable[[Any, Any], None]] = {
    np.ndarray: _set_array_state,
    np.dtype: _set_dtype_state,
}
"""Setters of the state of arrays and data types."""

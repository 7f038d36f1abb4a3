"""Tensors in pickles; their parts are checked before torch sees them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.utilities.plain_pickle import Constructor


@dataclass(frozen=True)
class Storage:
    """Bytes that tensors are views of.

    Args:
        content: Bytes.
        dtype: Type of the numbers.
        numel: Number of the numbers.
    """

    content: torch.UntypedStorage
    dtype: torch.dtype
    numel: int


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    _hooks: Any = None,
    metadata: Any = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    if type(storage) is not Storage or type(size) not in (tuple, torch.Size) or metadata:
        raise TypeError("a tensor is of another kind")
    dtype = dtype or storage.dtype
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise ValueError("a tensor has sizes that are none")
    stored = storage.numel * storage.dtype.itemsize // dtype.itemsize
    if math.prod(size):
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= stored:
            raise ValueError(f"a tensor of the shape {[*size]} is larger than what is stored of it")
    tensor = torch.empty(0, dtype=dtype).set_(storage.content, offset, size, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _typed_tensor(*parts: Any) -> Tensor:
    """Stand in for ``_rebuild_tensor_v3``, for types without a class of storages."""
    *first, dtype = parts[:7]
    if not isinstance(dtype, torch.dtype):
        raise TypeError("a tensor is of another kind")
    return _tensor(*first, *parts[7:], dtype=dtype)


def _parameter(data: Any, requires_grad: Any, _hooks: Any = None) -> torch.nn.Parameter:
    if type(data) is not Tensor:
        raise TypeError("a parameter is made of no tensor")
    return torch.nn.Parameter(data, bool(requires_grad))


def _sparse(layout: Any, parts: Any) -> Tensor:
    if type(parts) is not tuple or not isinstance(layout, torch.layout):
        raise TypeError("a sparse tensor is of another kind")
    if layout is torch.sparse_coo:
        indices, values, size, *coalesced = parts
        if type(indices) is not Tensor or indices.dtype is not torch.int64:
            raise TypeError("a sparse tensor is of another kind")  # torch would copy others
        return torch.sparse_coo_tensor(
            indices,
            values,
            _size(tuple(size)),
            is_coalesced=bool(coalesced and coalesced[0]),
            check_invariants=True,
        )
    compressed, plain, values, size = parts
    return torch.sparse_compressed_tensor(
        compressed, plain, values, _size(tuple(size)), layout=layout, check_invariants=True
    )


def _layout(name: Any) -> torch.layout:
    if name not in _LAYOUTS:
        raise ValueError("a sparse tensor is of another kind")
    return _LAYOUTS[name]


def _size(sizes: Any) -> torch.Size:
    if type(sizes) is not tuple:
        raise TypeError("a size is no tuple")
    return torch.Size(sizes)


def _device(kind: Any, *index: Any) -> torch.device:
    if type(kind) is not str or not re.fullmatch(r"[a-z]{2,20}", kind):
        raise TypeError("a device is none")
    return torch.device(kind, *index)


_DTYPES = {
    str(dtype): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and not str(dtype).startswith(("torch.q", "torch.bits"))
}
_LAYOUTS = {
    str(layout): layout
    for layout in (
        torch.sparse_coo,
        torch.sparse_csr,
        torch.sparse_csc,
        torch.sparse_bsr,
        torch.sparse_bsc,
    )
}
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
}


@dataclass(frozen=True)
class _StorageKind:
    dtype: torch.dtype


TENSORS: dict[str, Any] = {
    **_DTYPES,
    **{f"torch.{name}": _StorageKind(dtype) for name, dtype in _STORAGE_DTYPES.items()},
    "torch.storage.UntypedStorage": _StorageKind(torch.uint8),
    "torch._utils._rebuild_tensor_v2": Constructor(_tensor),
    "torch._utils._rebuild_tensor_v3": Constructor(_typed_tensor),
    "torch._utils._rebuild_parameter": Constructor(_parameter),
    "torch._utils._rebuild_sparse_tensor": Constructor(_sparse),
    "torch.serialization._get_layout": Constructor(_layout),
    "torch.Size": Constructor(_size),
    "torch.device": Constructor(_device),
}
"""Names of tensors and of what belongs to them, as ``torch.save`` writes them."""


def storage_id(name: Any, kind: Any, key: Any, _location: Any, numel: Any) -> tuple[Any, str, int]:
    """Return type, key and length of a storage by the parts of its persistent id."""
    if name != "storage" or type(kind) is not _StorageKind or type(key) is not str:
        raise TypeError("it refers to something else than a storage")
    if type(numel) is not int or not 0 <= numel < 2**62:
        raise ValueError("a storage has a length that is none")
    return kind.dtype, key, numel

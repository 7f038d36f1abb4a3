"""Archives of tensors, as ``torch.save`` writes them, opened as data."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from framework.utilities.array_pickle import ARRAY_STATES, ARRAYS
from framework.utilities.limits import FileTooLargeError, memory_foreseen, open_file
from framework.utilities.plain_pickle import (
    PLAIN,
    Constructor,
    MoreThanDataError,
    read_plain_pickle,
    shown,
)
from framework.utilities.plain_tree import PlainTree
from framework.utilities.stored_zip import START, StoredZip, fill

LEGACY_START = b"\x80"
"""First byte of the format of torch before 1.6: a pickle of its magic number."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def load_archive(path: str | Path, *, mmap: bool = False, key: str | None = None) -> Any:
    """Return the tensors, NumPy arrays, plain values and containers in a file of ``torch.save``.

    It stands in the place of ``torch.load(weights_only=True)``, which compares no checksums, and
    takes what a file says of sizes as it is. Tensors come to the CPU. Sparse, quantized, nested
    and meta tensors, tensors with attributes, modules and all other classes are refused.

    Every entry is compared with its CRC-32, which costs about 1 s per GB beside the reading.
    There is nothing to compare in files of torch before 1.6 (not zip archives), and in those
    written after ``torch.serialization.set_crc32_options(False)``: damage goes unseen there.

    It takes at most the memory that is stored in the file, or the limit of
    ``framework.utilities.limits`` where that is more, counting a tensor that repeats its values by
    a stride of 0, or a container that is shared, as often as it is used.

    Args:
        path: File, or its address where it has ``://`` in it.
        mmap: Whether tensors are mapped from the file (and may be written to, but not through),
            which then is read for the checksums only.
        key: Entry of the dict in the file that is returned alone, None where there is none; only
            the entries of the archive that it lies in are compared with their checksums.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, holds anything else, or would take too much memory. Nothing of
            it was run.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp(), "weights.pt")
        >>> torch.save({"w": torch.ones(2), "epoch": 3}, path)
        >>> load_archive(path)
        {'w': tensor([1., 1.]), 'epoch': 3}
    """
    if "://" in str(path):
        from lightning.fabric.utilities.cloud_io import get_filesystem

        with get_filesystem(str(path)).open(str(path), "rb") as remote:
            return read_archive(remote, path, key=key)
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    with open_file(path) as file:
        return read_archive(file, path, mmap=mmap, key=key)


def read_archive(
    file: IO[bytes], path: str | Path, *, mmap: bool = False, key: str | None = None
) -> Any:
    """Return what ``load_archive`` does, of an open binary file.

    Args:
        file: Seekable binary file.
        path: File in messages, and the one that is mapped.
        mmap: Whether tensors are mapped from ``path``.
        key: Entry of the dict in the file that is returned alone.
    """
    with _refused_in_one_line(path):
        start = file.read(len(START))
        file.seek(0)
        if start.startswith(START):
            archive: _Archive | _Legacy = _Archive(file, path, mmap)
        elif start.startswith(LEGACY_START):
            archive = _Legacy(file, path)
        else:
            raise ValueError("the content is not what torch.save writes")
        content = archive.load()
        PlainTree(content).check(path, archive.size)
        if key is None:
            archive.verify()
            return content
        content = content.get(key) if isinstance(content, dict) else None
        archive.verify(PlainTree(content).tensors)
        return content


def load_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file by their names, mapped from it.

    The package compares what the file says of sizes with what is there. The format has no
    checksums: damage of the numbers goes unseen.

    Raises:
        ModuleNotFoundError: The package ``safetensors`` is missing.
        ValueError: The file is damaged.
    """
    from safetensors.torch import load_file

    with _refused_in_one_line(path):
        return load_file(path)


@contextmanager
def _refused_in_one_line(path: str | Path) -> Iterator[None]:
    """Name the file in whatever its content raises, which a damaged one makes of any kind."""
    with memory_foreseen(path):
        try:
            yield
        except MoreThanDataError as name:
            raise ValueError(
                f"{path} holds more than tensors and plain containers (it names {name}) and was "
                "not loaded."
            ) from None
        except (OSError, MemoryError, FileTooLargeError):
            raise
        except Exception as error:
            if "allocate memory" in str(error):  # as torch says it
                raise
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise ValueError(
                f"{path} is damaged or incomplete and was not loaded: {reason}."
            ) from None


# ---- tensors in a pickle -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Storage:
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
    if type(storage) is not _Storage or type(size) not in (tuple, torch.Size) or metadata:
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


_TENSORS: dict[str, Any] = {
    **_DTYPES,
    **{f"torch.{name}": _StorageKind(dtype) for name, dtype in _STORAGE_DTYPES.items()},
    "torch.storage.UntypedStorage": _StorageKind(torch.uint8),
    "torch._utils._rebuild_tensor_v2": Constructor(_tensor),
    "torch._utils._rebuild_tensor_v3": Constructor(_typed_tensor),
    "torch._utils._rebuild_parameter": Constructor(_parameter),
    "torch.Size": Constructor(_size),
    "torch.device": Constructor(_device),
}
_NAMES = {**PLAIN, **ARRAYS, **_TENSORS}


def _storage_id(name: Any, kind: Any, key: Any, _location: Any, numel: Any) -> tuple[Any, str, int]:
    if name != "storage" or type(kind) is not _StorageKind or type(key) is not str:
        raise TypeError("it refers to something else than a storage")
    if type(numel) is not int or not 0 <= numel < 2**62:
        raise ValueError("a storage has a length that is none")
    return kind.dtype, key, numel


# ---- the two formats -----------------------------------------------------------------------------


class _Archive:
    """A zip archive, of torch 1.6 and later."""

    def __init__(self, file: IO[bytes], path: str | Path, mmap: bool) -> None:
        self._zip = StoredZip(file, path)
        self._path = path
        self.size = self._zip.size
        self._contents: dict[str, torch.UntypedStorage] = {}
        self._read = set[str]()
        self._mapped = None
        if mmap:
            self._mapped = torch.UntypedStorage.from_file(str(path), False, self.size)

    def load(self) -> Any:
        entries = self._zip.entries
        if "data.pkl" not in entries or "constants.pkl" in entries:
            raise ValueError("the content is not what torch.save writes")
        if "byteorder" in entries and self._bytes("byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        return read_plain_pickle(
            io.BytesIO(self._bytes("data.pkl")),
            self._path,
            _NAMES,
            states=ARRAY_STATES,
            persistent=self._storage,
        )

    def verify(self, tensors: Sequence[Tensor] | None = None) -> None:
        """Compare the entries that were not yet; of ``tensors``, where they are given."""
        names = set(self._zip.entries)
        if tensors is not None:
            kept = {tensor.untyped_storage().data_ptr() for tensor in tensors}
            names = {f"data/{k}" for k, c in self._contents.items() if c.data_ptr() in kept}
        for name in sorted(names - self._read):
            self._zip.verify(name)

    def _bytes(self, name: str) -> bytes:
        self._read.add(name)
        return self._zip.read(name)

    def _storage(self, saved_id: Any) -> _Storage:
        dtype, key, numel = _storage_id(*saved_id)
        entry = self._zip.entries[f"data/{key}"]
        if numel * dtype.itemsize > entry.size:
            raise ValueError(f"its entry {entry.name} is shorter than the tensors in it")
        if key not in self._contents:
            self._contents[key] = self._content(f"data/{key}")
        return _Storage(self._contents[key], dtype, numel)

    def _content(self, name: str) -> torch.UntypedStorage:
        entry = self._zip.entries[name]
        if self._mapped is not None:
            return self._mapped[entry.offset : entry.offset + entry.size]
        content = torch.empty(entry.size, dtype=torch.uint8)
        self._read.add(name)
        self._zip.read_into(name, content.numpy().data)
        return content.untyped_storage()


class _Legacy:
    """A row of pickles and numbers, of torch before 1.6; it has no checksums, and is not mapped."""

    def __init__(self, file: IO[bytes], path: str | Path) -> None:
        self._file = file
        self._path = path
        self.size = file.seek(0, 2)
        file.seek(0)
        self._storages: dict[str, _Storage] = {}
        self._bytes = 0

    def load(self) -> Any:
        if self._pickle() != LEGACY_MAGIC:
            raise ValueError("the content is not what torch.save writes")
        self._pickle(), self._pickle()  # the version of the format, and of the machine
        content = self._pickle()
        keys = self._pickle()
        if type(keys) is not list or sorted(keys) != sorted(self._storages):
            raise ValueError("its list of tensors is another than those in it")
        for key in keys:
            storage = self._storages[key]
            if self._file.read(8) != storage.numel.to_bytes(8, "little"):
                raise ValueError(f"its tensor {shown(key)} has another length than its list says")
            fill(self._file, torch.empty(0, dtype=torch.uint8).set_(storage.content).numpy().data)
        return content

    def verify(self, tensors: Sequence[Tensor] | None = None) -> None:
        """There is nothing to compare."""

    def _pickle(self) -> Any:
        return read_plain_pickle(
            self._file, self._path, _NAMES, states=ARRAY_STATES, persistent=self._storage
        )

    def _storage(self, saved_id: Any) -> _Storage:
        *first, view = saved_id
        if view is not None:
            raise ValueError("a storage is part of another")
        dtype, key, numel = _storage_id(*first)
        if key not in self._storages:
            self._bytes += numel * dtype.itemsize
            if self._bytes > self.size:
                raise ValueError("its tensors are larger than the file")
            content = torch.zeros(numel, dtype=dtype).untyped_storage()
            self._storages[key] = _Storage(content, dtype, numel)
        return self._storages[key]

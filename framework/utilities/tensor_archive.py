"""Archives of tensors, as ``torch.save`` writes them, opened as data."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from framework.utilities.array_pickle import ARRAY_STATES, ARRAYS
from framework.utilities.error_reason import reason_of
from framework.utilities.limits import (
    FileTooLargeError,
    check_size,
    memory_foreseen,
    open_file,
)
from framework.utilities.plain_pickle import (
    PLAIN,
    MoreThanDataError,
    read_plain_pickle,
    shown,
)
from framework.utilities.plain_tree import PlainTree
from framework.utilities.stored_zip import START, StoredZip, fill
from framework.utilities.tensor_pickle import TENSORS, Storage, storage_id

LEGACY_START = b"\x80"
"""First byte of the format of torch before 1.6: a pickle of its magic number."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
HEADER_BYTES = 48
"""Memory that one byte of a header of safetensors takes at most."""
_NAMES = {**PLAIN, **ARRAYS, **TENSORS}
# sparse tensors are checked when they are made, and the old format has their numbers at its end
_LEGACY_NAMES = {name: value for name, value in _NAMES.items() if "sparse" not in name}


def load_archive(path: str | Path, *, mmap: bool = False, key: str | None = None) -> Any:
    """Return the tensors, NumPy arrays, plain values and containers in a file of ``torch.save``.

    It stands in the place of ``torch.load(weights_only=True)``, which compares no checksums, and
    takes what a file says of sizes as it is. Tensors, dense and sparse ones, come to the CPU.
    Quantized, nested and meta tensors, tensors with attributes, modules and all other classes are
    refused.

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


def archive_digest(path: str | Path) -> str:
    """Return a text that differs where the content does, from an archive's table of contents.

    Files of torch before 1.6 have none, and are told apart by their size.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    with open_file(path) as file, _refused_in_one_line(path):
        if file.read(len(START)) != START:
            return str(file.seek(0, 2))
        entries = StoredZip(file, path).entries.values()
        listed = sorted((entry.name, entry.size, entry.checksum) for entry in entries)
        return hashlib.blake2b(repr(listed).encode(), digest_size=16).hexdigest()


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
        with open_file(path) as file:
            header = int.from_bytes(file.read(8), "little")
        # a header longer than the file is the package's to refuse
        if header <= Path(path).stat().st_size:
            check_size(path, HEADER_BYTES * header, "what its header lists")
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
        except (MemoryError, FileTooLargeError):
            raise
        except Exception as error:
            ours = not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)
            if not ours or "allocate memory" in str(error):  # as torch says it
                raise
            reason = reason_of(error)
            raise ValueError(
                f"{path} is damaged or incomplete and was not loaded: {reason}."
            ) from None


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
            kept = {t.untyped_storage().data_ptr() for t in tensors}
            names = {f"data/{k}" for k, c in self._contents.items() if c.data_ptr() in kept}
        for name in sorted(names - self._read):
            self._zip.verify(name)

    def _bytes(self, name: str) -> bytes:
        self._read.add(name)
        return self._zip.read(name)

    def _storage(self, saved_id: Any) -> Storage:
        dtype, key, numel = storage_id(*saved_id)
        if f"data/{key}" not in self._zip.entries:
            raise ValueError(f"its entry {shown(f'data/{key}')} is missing")
        entry = self._zip.entries[f"data/{key}"]
        if numel * dtype.itemsize > entry.size:
            raise ValueError(f"its entry {shown(entry.name)} is shorter than the tensors in it")
        if key not in self._contents:
            self._contents[key] = self._content(f"data/{key}")
        return Storage(self._contents[key], dtype, numel)

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
        self._storages: dict[str, Storage] = {}
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
            self._file, self._path, _LEGACY_NAMES, states=ARRAY_STATES, persistent=self._storage
        )

    def _storage(self, saved_id: Any) -> Storage:
        *first, view = saved_id
        if view is not None:
            raise ValueError("a storage is part of another")
        dtype, key, numel = storage_id(*first)
        if key not in self._storages:
            self._bytes += numel * dtype.itemsize
            if self._bytes > self.size:
                raise ValueError("its tensors are larger than the file")
            content = torch.zeros(numel, dtype=dtype).untyped_storage()
            self._storages[key] = Storage(content, dtype, numel)
        return self._storages[key]

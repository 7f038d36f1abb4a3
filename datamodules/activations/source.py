"""Where a row's activation comes from: computed into a buffer, or mapped from a cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.array_files import map_npy
from framework.distributed.collectives import barrier, rank, world_size
from framework.language.language_model import LanguageModel
from framework.utilities.files import remove_parts, write_atomically
from framework.utilities.json_files import read_json

FILE_BYTES = 1 << 27
"""Size of a file of the cache: what a killed run computes again, at most."""
CacheType = Literal["float32", "float16"]


class Forward:
    """Computes the activations of contexts, always the same contexts together.

    A group of ``contexts_per_forward`` contexts is one forward pass, so that an activation has the
    same bits whenever and on whichever rank it is computed. Of every context the special tokens are
    left out: it gives P rows, and row i is token ``i % P`` of context ``i // P``.

    Args:
        language_model: Language model.
        contexts: Token ids (N, L) int32.
        fields: Hook point of every field.
        text: Positions in a context where the text starts and stops.
        contexts_per_forward: Contexts of one forward pass.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        contexts: Tensor,
        fields: dict[str, str],
        text: tuple[int, int],
        contexts_per_forward: int,
    ) -> None:
        self.language_model = language_model
        self.contexts = contexts
        self.fields = fields
        self.text = slice(*text)
        self.contexts_per_forward = contexts_per_forward
        self.group_rows = contexts_per_forward * (text[1] - text[0])

    @property
    def num_rows(self) -> int:
        """Tokens of text in all contexts."""
        return len(self.contexts) * (self.text.stop - self.text.start)

    @property
    def num_groups(self) -> int:
        """Forward passes over all contexts."""
        return -(-len(self.contexts) // self.contexts_per_forward)

    def widths(self) -> dict[str, int]:
        """Return d of every field."""
        found = self.language_model.activations(self.contexts[:1].long(), self._points)
        return dict(zip(self.fields, (value.shape[-1] for value in found), strict=True))

    @property
    def _points(self) -> list[str]:
        return list(self.fields.values())

    def group(self, number: int) -> dict[str, Tensor]:
        """Return the rows of a group, (rows, d) float32 on the CPU."""
        start = number * self.contexts_per_forward
        ids = self.contexts[start : start + self.contexts_per_forward].long()
        found = self.language_model.activations(ids, self._points)
        return {
            name: value[:, self.text].flatten(0, 1).float().cpu()
            for name, value in zip(self.fields, found, strict=True)
        }


class Buffer:
    """Holds the groups of activations that were used last, and computes those that are missing.

    What it returns is a function of the rows alone; only the time that it takes depends on what
    was asked for before.

    Args:
        forward: Source of a group's activations.
        widths: Width d of every field.
        capacity: Groups that the buffer holds.
    """

    def __init__(self, forward: Forward, widths: dict[str, int], capacity: int) -> None:
        self.forward = forward
        self.capacity = min(capacity, forward.num_groups)
        rows = self.capacity * forward.group_rows
        # pages of memory that are not written yet take no room
        self.values = {name: torch.empty(rows, width) for name, width in widths.items()}
        self._slot_of = torch.full((forward.num_groups,), -1)
        self._group_in = torch.full((self.capacity,), -1)
        self._used_at = torch.zeros(self.capacity, dtype=torch.int64)
        self._clock = 0

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the activations of rows, (B, d) for every field."""
        size = self.forward.group_rows
        found = {n: v.new_empty(len(rows), v.shape[1]) for n, v in self.values.items()}
        waiting = torch.arange(len(rows))
        while len(waiting):
            groups = rows[waiting] // size
            slots = self._slot_of[groups]
            here = slots >= 0
            if here.any():
                places = slots[here] * size + rows[waiting[here]] % size
                for name, values in self.values.items():
                    found[name][waiting[here]] = values[places]
                self._clock += 1
                self._used_at[slots[here]] = self._clock
                waiting, groups = waiting[~here], groups[~here]
            self._load(groups.unique()[: self.capacity].tolist())
        return found

    def _load(self, groups: Sequence[int]) -> None:
        """Compute groups, in the place of those that were used longest ago."""
        free = self._used_at.argsort(stable=True)[: len(groups)].tolist()
        for group, slot in zip(groups, free, strict=True):
            if self._group_in[slot] >= 0:
                self._slot_of[self._group_in[slot]] = -1
            self._group_in[slot] = -1
            start = slot * self.forward.group_rows
            for name, values in self.forward.group(group).items():
                self.values[name][start : start + len(values)] = values
            self._group_in[slot], self._slot_of[group] = group, slot


class Cache:
    """Activations of all groups, in files that are mapped into memory.

    The folder holds ``index.json``, which says what was computed, and per 128 MiB of a field one
    file ``<field>-00000.npy`` with the rows in order. A file is written whole or not at all: after
    a kill, ``fill`` goes on with those that are missing. Rank r of W computes every W-th file,
    in a folder that all ranks see.

    Args:
        folder: Folder of the cache.
        forward: Source of a group's activations.
        widths: Width d of every field.
        dtype: Type of the numbers in the files.
        model: Name of the model in the index.

    Raises:
        ValueError: the folder holds activations of another model, text or hook point.
    """

    def __init__(
        self,
        folder: str | Path,
        forward: Forward,
        widths: dict[str, int],
        dtype: CacheType,
        model: str,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.forward = forward
        self.widths = widths
        self.dtype = np.dtype(dtype)
        row_bytes = sum(widths.values()) * self.dtype.itemsize
        self.file_groups = max(1, FILE_BYTES // (row_bytes * forward.group_rows))
        self.file_rows = self.file_groups * forward.group_rows
        self.num_files = -(-forward.num_groups // self.file_groups)
        self.description: dict[str, Any] = {
            "model": model,
            "fields": {n: [point, widths[n]] for n, point in forward.fields.items()},
            "contexts": fingerprint(forward.contexts),
            "contexts_per_forward": forward.contexts_per_forward,
            "rows": forward.num_rows,
            "dtype": dtype,
            "rows_per_file": self.file_rows,
        }
        self._files: dict[str, list[np.ndarray]] = {}

    def fill(self) -> None:
        """Compute what is missing, and map it all; called on every rank."""
        path = self.folder / "index.json"
        barrier()
        if rank() == 0:
            remove_parts(self.folder)
        if path.is_file():
            self._check(path)
        elif rank() == 0:
            text = json.dumps(self.description, indent=2) + "\n"
            write_atomically(path, lambda file: file.write(text.encode()))
        barrier()
        for number in range(rank(), self.num_files, world_size()):
            if not all(self._path(name, number).is_file() for name in self.widths):
                self._write(number)
        barrier()
        self._files = {
            name: [self._map(name, number) for number in range(self.num_files)]
            for name in self.widths
        }

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the activations of rows, (B, d) float32 for every field."""
        wanted = rows.numpy()
        files, places = wanted // self.file_rows, wanted % self.file_rows
        found = {n: np.empty((len(rows), d), np.float32) for n, d in self.widths.items()}
        for number in np.unique(files):
            chosen = files == number
            for name, values in found.items():
                values[chosen] = self._files[name][number][places[chosen]]
        return {name: torch.from_numpy(values) for name, values in found.items()}

    def _check(self, path: Path) -> None:
        try:
            present = read_json(path)
        except ValueError as error:
            message = f"{str(error).removesuffix('.')}; remove the folder to compute it again."
            raise ValueError(message) from None
        if not isinstance(present, dict):
            raise ValueError(f"{path} is no description of activations: remove the folder.")
        for name, value in self.description.items():
            if present.get(name) != value:
                raise ValueError(
                    f"{path.parent} holds activations with {name}={present.get(name)!r}, and "
                    f"this run needs {value!r}: give another cache_dir."
                )

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:05d}.npy"

    def _write(self, number: int) -> None:
        first = number * self.file_groups
        last = min(first + self.file_groups, self.forward.num_groups)
        parts = [self.forward.group(group) for group in range(first, last)]
        for name in self.widths:
            values = torch.cat([part[name] for part in parts]).numpy().astype(self.dtype)
            if not np.isfinite(values).all():
                raise ValueError(
                    f"Activations at {self.forward.fields[name]} do not fit {self.dtype.name}: "
                    "use cache_dtype='float32'."
                )
            write_atomically(self._path(name, number), _saver(values))

    def _map(self, name: str, number: int) -> np.ndarray:
        path = self._path(name, number)
        rows = min(self.file_rows, self.forward.num_rows - number * self.file_rows)
        try:
            values = map_npy(path, "r")
        except (ValueError, OSError):
            values = None
        if values is None or (values.shape, values.dtype) != (
            (rows, self.widths[name]),
            self.dtype,
        ):
            raise ValueError(f"{path} is damaged: remove it to compute it again.")
        return values


def _saver(values: np.ndarray) -> Any:
    return lambda file: np.save(file, values, allow_pickle=False)


def fingerprint(contexts: Tensor) -> str:
    """Return a hash of token ids."""
    return hashlib.blake2b(contexts.numpy().tobytes(), digest_size=8).hexdigest()

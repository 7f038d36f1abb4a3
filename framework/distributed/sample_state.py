"""Per-sample memory: one row per training sample, the same whatever the number of ranks."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from framework.distributed.collectives import (
    all_to_all,
    barrier,
    exchanged_counts,
    gather,
    raise_on_all_ranks,
    rank,
    rows_per_rank,
    world_size,
)
from framework.distributed.shared_file import shared_zeros
from framework.utilities.checks import check_one_of
from framework.utilities.devices import to_device
from framework.utilities.tensor_archive import load_archive

MOST_SHARDS = 1 << 20
"""Shards that a file may claim."""
NEEDED = "put it beside its checkpoint, or go on from another one"
"""What to do where shards are missing."""
Layout = Literal["replicated", "exchange", "memmap", "local"]


class SampleState:
    """A table of N rows that is read and written by the samples' index in the full training set.

    It is neither buffer nor parameter, which DDP would broadcast; a module, loss or callback keeps
    it as a plain attribute, made in its ``setup``, and the checkpoint keeps it under the owner's
    name. Of equal indices in one global batch the row of the highest (rank, position) is kept, in
    every layout and on one process, so that a run has the same bits on any number of ranks.

    ============== ===================================== ============== ===========================
    layout         a row lies                            memory         traffic
    ============== ===================================== ============== ===========================
    ``replicated`` on every rank                         N rows a rank  write: all-gather of rows
    ``exchange``   on rank ``i % W``                     N/W rows       all-to-all of rows
    ``memmap``     in a file that all ranks of *one*     N rows a node  write: all-gather of indices
                   node map
    ``local``      on the rank that samples it           N/W rows       none
    ============== ===================================== ============== ===========================

    ``write`` is collective in every layout but ``local``, ``read`` in ``exchange``: all ranks must
    call them, a rank without rows with empty tensors. In ``memmap`` a read sees what this rank
    wrote, and what others wrote before the latest ``barrier``. ``local`` is for a data module
    with ``shards``, which hands a sample to the same rank in every epoch.

    Indices on a GPU are not looked at, which it would be waited for: of one that lies outside the
    table it ends the process itself. The data sets of a data module have no such index.

    The last three are *sharded*: each rank saves its rows in a file of its own, and any number of
    ranks continues from them.

    Args:
        num_samples: Number of rows N.
        shape: Shape of a row.
        fill: Value of rows that were never written.
        dtype: Data type of the table; values are cast to it.
        device: Device of the table; ``memmap`` is on the CPU.
        layout: Layout over the ranks, see above.
        shards: Number of shards S of the data module, only for ``local``: row i lies on rank ``i %
            S * W // S``. Default W.
        persistent: Whether the table belongs in checkpoints.
        directory: Directory of the file, only for ``memmap``; default the system's temporary
            directory. The file has no name any more once all ranks have mapped it, so that its
            space is free when the last process ends, however it ends.

    Raises:
        ValueError: an argument out of its range, or ranks of several nodes with ``memmap``.
        OSError: no room for the file.

    Example:
        >>> import torch
        >>> from framework.distributed.sample_state import SampleState
        >>> history = SampleState(num_samples=100, shape=(3,), dtype=torch.float16)
        >>> index = torch.tensor([7, 42])
        >>> history.write(index, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        >>> history.read(torch.tensor([42, 8]))
        tensor([[4., 5., 6.],
                [0., 0., 0.]], dtype=torch.float16)
    """

    def __init__(
        self,
        num_samples: int,
        shape: Sequence[int] = (),
        *,
        fill: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        layout: Layout = "replicated",
        shards: int | None = None,
        persistent: bool = True,
        directory: Path | str | None = None,
    ) -> None:
        ranks = world_size()
        if num_samples < 1 or any(size < 1 for size in shape):
            raise ValueError(f"A table of {num_samples} rows of shape {tuple(shape)} is empty.")
        check_one_of(get_args(Layout), layout=layout)
        if shards is not None and (layout != "local" or shards < 1 or shards % ranks):
            raise ValueError(
                f"shards={shards} belongs to layout='local' and must be a multiple of the {ranks} "
                f"ranks; the layout is {layout!r}."
            )
        if layout == "memmap" and torch.device(device).type != "cpu":
            raise ValueError(f"layout='memmap' lies on the CPU, not on {device}.")
        self.num_samples = num_samples
        self.shape = tuple(shape)
        self.dtype = dtype
        self.layout = layout
        self.shards = shards or ranks
        self.persistent = persistent
        if layout == "memmap":
            size = (num_samples, *self.shape)
            self._table = shared_zeros(size, dtype, Path(directory or tempfile.gettempdir()))
            if fill:
                self.fill_(fill)
        else:
            rows = num_samples if layout == "replicated" else len(self.own_rows())
            self._table = torch.full((rows, *self.shape), fill, dtype=dtype, device=device)

    def __repr__(self) -> str:
        return (
            f"SampleState({self.num_samples}, {self.shape}, dtype={self.dtype}, "
            f"layout={self.layout!r})"
        )

    def read(self, index: Tensor) -> Tensor:
        """Return a copy of rows.

        Args:
            index: (B,) int64.

        Returns:
            (B, *shape), on the device of ``index``.

        Raises:
            IndexError: an index is negative or not below N, or, in ``local``, another rank's; see
                above for a GPU.
            ValueError: ``index`` has another shape or dtype.
        """
        return read_rows([self], index)[0]

    def write(self, index: Tensor, values: Tensor) -> None:
        """Replace rows.

        Args:
            index: (B,) int64.
            values: (B, *shape).

        Raises:
            IndexError: as for ``read``.
            ValueError: ``index`` or ``values`` has another shape or dtype.
        """
        write_rows([self], index, [values])

    def fill_(self, value: float) -> None:
        """Set every row to ``value``; all ranks must call it."""
        self.barrier()
        if self.layout != "memmap" or rank() == 0:
            self._table.fill_(value)
        self.barrier()

    def barrier(self) -> None:
        """Let every rank see what was written so far; for ``memmap``, at an epoch's end."""
        barrier()

    # ---- checkpoints ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the whole table of a ``replicated`` state as a tensor on the CPU.

        Raises:
            RuntimeError: the layout is sharded, see ``save_shard``.
        """
        self._check_saved_by("state_dict", sharded=False)
        return {"table": self._table.to("cpu", copy=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``, on any number of ranks.

        Raises:
            RuntimeError: the layout is sharded, see ``load_shards``.
            ValueError: the saved table has another shape or dtype.
        """
        self._check_saved_by("load_state_dict", sharded=False)
        saved = state["table"]
        if saved.shape != self._table.shape or saved.dtype != self.dtype:
            raise ValueError(
                f"The saved per-sample table is {tuple(saved.shape)} {saved.dtype}, but this run "
                f"needs {tuple(self._table.shape)} {self.dtype}."
            )
        self._table.copy_(saved)

    def own_rows(self) -> Tensor:
        """Return the indices of the rows that this rank saves, ascending; ``i % W == rank``.

        With ``shards`` S, those with ``i % S * W // S == rank``.
        """
        return _rows_of(rank(), world_size(), self.shards, self.num_samples)

    def shard(self) -> Tensor:
        """Return the rows ``own_rows`` of a sharded table, in their order."""
        return self._table[self.own_rows()] if self.layout == "memmap" else self._table

    def save_shard(self, directory: Path, name: str) -> None:
        """Write ``{name}-{rank}-of-{W}.pt`` into ``directory`` in one step; called on every rank.

        Args:
            directory: Directory of the shards, made if it does not exist; it holds one set of
                shards of each name.
            name: Name of the table.

        Raises:
            RuntimeError: the layout is ``replicated``, see ``state_dict``.
        """
        from framework.utilities.files import write_atomically

        self._check_saved_by("save_shard", sharded=True)
        if self.layout == "memmap":
            barrier()
        saved = {
            "num_samples": self.num_samples,
            "shards": self.shards,
            "rows": self.shard().cpu(),
        }
        path = directory / f"{name}-{rank()}-of-{world_size()}.pt"
        write_atomically(path, lambda file: torch.save(saved, file))

    def load_shards(self, directory: Path, name: str) -> None:
        """Continue from ``save_shard``, written by any number of ranks; called on every rank.

        Nothing is changed unless all that are needed can be read, on every rank. The same number of
        ranks need one file each, so that these may lie on the disks of several machines.

        Args:
            directory: Directory with the files.
            name: Name of the table.

        Raises:
            RuntimeError: the layout is ``replicated``, see ``load_state_dict``.
            FileNotFoundError: a file is missing; it is named.
            ValueError: a file is damaged, or belongs to another table; or so on another rank.
        """
        self._check_saved_by("load_shards", sharded=True)
        own, rows, failure = self.own_rows(), torch.empty(0), None
        try:
            rows = self._read_rows(own, directory, name)
        except (OSError, ValueError) as error:
            failure = error
        raise_on_all_ranks(failure)
        if self.layout == "memmap":
            self._table[own] = rows
            barrier()
        else:
            self._table.copy_(rows)

    def _read_rows(self, own: Tensor, directory: Path, name: str) -> Tensor:
        """Return the rows of these indices; where W is the same they lie in this rank's file."""
        writers = _number_of_shards(directory, name)
        order: Sequence[int] = range(writers)
        if same := writers == world_size():
            order = sorted(order, key=lambda writer: writer != rank())
        # one after the other: a name may speak of more ranks than there is memory for
        for writer in order[:1] if same else order:
            _shard(directory, name, writer, writers)
        rows = torch.empty(len(own), *self.shape, dtype=self.dtype)
        missing = len(own)
        for writer in order:
            if same and writer != rank() and not missing:
                break
            saved = self._read_shard(_shard(directory, name, writer, writers), writer, writers)
            theirs = _rows_of(writer, writers, saved["shards"], self.num_samples)
            common = torch.isin(theirs, own)
            rows[torch.searchsorted(own, theirs[common])] = saved["rows"][common]
            missing -= int(common.sum())
        return rows

    def _read_shard(self, path: Path, writer: int, writers: int) -> dict[str, Any]:
        saved = load_archive(path, mmap=True)
        damaged = f"{path} is not a whole shard of per-sample memory."
        try:
            rows, shards, samples = saved["rows"], int(saved["shards"]), int(saved["num_samples"])
            number, found = len(rows), (samples, *rows.shape[1:], rows.dtype)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(damaged) from None
        # a file may claim any number of samples: those of another table are not numbered
        if samples == self.num_samples and not (
            1 <= shards <= MOST_SHARDS and number == len(_rows_of(writer, writers, shards, samples))
        ):
            raise ValueError(damaged)
        if found != (self.num_samples, *self.shape, self.dtype):
            raise ValueError(
                f"{path} belongs to a table of {found[0]} rows of shape {found[1:-1]}, "
                f"{found[-1]}, but this run needs {self!r}."
            )
        return saved

    # ---- where rows lie -------------------------------------------------------------------------

    def _check(self, index: Tensor) -> None:
        if index.ndim != 1 or index.dtype != torch.int64:
            raise ValueError(
                f"index must be (B,) int64, got {index.dtype} of shape {tuple(index.shape)}."
            )
        if index.device.type != "cpu":
            # it would have to be waited for; its own kernels refuse what lies outside
            return
        check_index(index, self.num_samples)
        if self.layout == "local":
            foreign = index[self._owners(index) != rank()]
            if len(foreign):
                raise IndexError(
                    f"Sample {int(foreign[0])} belongs to rank {int(self._owners(foreign)[0])}, "
                    f"not {rank()}: layout='local' needs a data module with shards={self.shards}."
                )

    def _check_values(self, index: Tensor, values: Tensor) -> None:
        if values.shape != (len(index), *self.shape):
            raise ValueError(
                f"{self!r} takes {(len(index), *self.shape)} for {len(index)} indices, got values "
                f"of shape {tuple(values.shape)}."
            )

    def _check_saved_by(self, method: str, *, sharded: bool) -> None:
        if (self.layout != "replicated") != sharded:
            raise RuntimeError(f"{method} is not for layout {self.layout!r}: see SampleState.")

    def _owners(self, index: Tensor) -> Tensor:
        return index % self.shards * world_size() // self.shards

    def _slots(self, index: Tensor) -> Tensor:
        """Return the rows' places in this rank's table, -1 for a row of another rank."""
        if self.layout in ("replicated", "memmap") or world_size() == 1:
            return index
        per_rank = self.shards // world_size()
        slots = index // self.shards * per_rank + index % self.shards - rank() * per_rank
        return slots.where(self._owners(index) == rank(), -1)

    def _placed(self, index: Tensor) -> Tensor:
        """Return indices where the table is; those of a GPU can be looked at on the CPU only."""
        there = to_device(index, self._table.device)
        if there is not index:
            self._check(there)
        return there

    def _rows_at(self, index: Tensor) -> Tensor:
        # unlike `[]`, which counts negative indices from the end
        return self._table.index_select(0, self._slots(index))

    def _replace(self, index: Tensor, values: Tensor) -> None:
        self._table.index_copy_(0, self._slots(index), to_device(values, self._table.device))

    def _by_owner(self, index: Tensor) -> tuple[Tensor, list[int], list[int]]:
        """Return an order of the batch by owner, and how many rows go to and come from each."""
        owners, order = self._owners(index).sort(stable=True)
        ranks = torch.arange(world_size(), device=index.device)
        ends = torch.searchsorted(owners, ranks, right=True)
        return order, *exchanged_counts(ends.diff(prepend=ends.new_zeros(1)))


@torch.no_grad()
def read_rows(tables: Sequence[SampleState], index: Tensor) -> list[Tensor]:
    """Return the rows of tables of one size, layout and device, found and exchanged at once.

    Args:
        tables: Tables; what is said of ``SampleState.read`` holds for each.
        index: (B,) int64.

    Example:
        >>> import torch
        >>> from framework.distributed.sample_state import SampleState, read_rows
        >>> score, count = SampleState(9, fill=0.5), SampleState(9, dtype=torch.int64)
        >>> read_rows([score, count], torch.tensor([7]))
        [tensor([0.5000]), tensor([0])]
    """
    first = tables[0]
    first._check(index)
    if first.layout != "exchange" or world_size() == 1:
        there = first._placed(index)
        return [to_device(table._rows_at(there), index.device) for table in tables]
    order, sent, arriving = first._by_owner(index)
    asked = first._placed(all_to_all(index[order], sent, arriving)[0])
    answers = [all_to_all(t._rows_at(asked).to(index.device), arriving, sent)[0] for t in tables]
    back = order.argsort()
    return [answer[back] for answer in answers]


@torch.no_grad()
def write_rows(tables: Sequence[SampleState], index: Tensor, values: Sequence[Tensor]) -> None:
    """Replace rows of tables of one size, layout and device, found and exchanged at once.

    Args:
        tables: Tables; what is said of ``SampleState.write`` holds for each.
        index: (B,) int64.
        values: One (B, *shape) for each table.

    Example:
        >>> import torch
        >>> from framework.distributed.sample_state import SampleState, write_rows
        >>> score, count = SampleState(9, fill=0.5), SampleState(9, dtype=torch.int64)
        >>> write_rows([score, count], torch.tensor([7]), [torch.ones(1), torch.ones(1)])
        >>> score.read(torch.tensor([7])), count.read(torch.tensor([7]))
        (tensor([1.]), tensor([1]))
    """
    first = tables[0]
    first._check(index)
    for table, rows in zip(tables, values, strict=True):
        table._check_values(index, rows)
    values = [r.to(index.device, t.dtype) for t, r in zip(tables, values, strict=True)]
    start, stop = 0, None
    if first.layout in ("replicated", "memmap"):
        counts = rows_per_rank(len(index), index.device)
        if first.layout == "memmap":
            start = sum(counts[: rank()])
            stop = start + len(index)
        else:
            values = [gather(rows, counts) for rows in values]
        index = gather(index, counts)
    elif first.layout == "exchange" and world_size() > 1:
        order, sent, arriving = first._by_owner(index)
        values = [all_to_all(rows[order], sent, arriving)[0] for rows in values]
        index = all_to_all(index[order], sent, arriving)[0]
    index = first._placed(index)
    index, last = _last_of_each(index)
    if stop is not None:
        # in a file that all see, each rank writes its own rows that no other covers
        own = (last >= start) & (last < stop)
        index, last = index[own], last[own] - start
    last = to_device(last, values[0].device)
    for table, rows in zip(tables, values, strict=True):
        table._replace(index, rows[last])


def check_index(index: Tensor, num_samples: int) -> None:
    """Raise ``IndexError`` unless every index (B,), on the CPU, is one of 0..N-1."""
    wrong = index[(index < 0) | (index >= num_samples)]
    if len(wrong):
        raise IndexError(
            f"Index {int(wrong[0])} lies outside the table of N={num_samples} samples."
        )


def _last_of_each(index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values in order, and for each the position of its last occurrence.

    Rows that a later one covers so write what that one writes, in whatever order that happens;
    to leave them out would make a GPU tell how many there are.
    """
    values, order = index.sort(stable=True)
    last = torch.searchsorted(values, values, right=True) - 1
    return values, order[last]


def _rows_of(rank: int, ranks: int, shards: int, num_samples: int) -> Tensor:
    index = torch.arange(num_samples)
    return index[index % shards * ranks // shards == rank]


def _number_of_shards(directory: Path, name: str) -> int:
    """Return by how many ranks a table's files were written."""
    pattern = re.compile(re.escape(name) + r"-\d+-of-(\d+)\.pt")
    files = directory.iterdir() if directory.is_dir() else []
    totals = {int(m[1]) for m in (pattern.fullmatch(file.name) for file in files) if m}
    if not totals:
        raise FileNotFoundError(f"There is no shard of {name!r} in {directory}; {NEEDED}.")
    if len(totals) > 1:
        raise ValueError(f"{directory} holds shards of {name!r} by {sorted(totals)} ranks.")
    return totals.pop()


def _shard(directory: Path, name: str, writer: int, writers: int) -> Path:
    path = directory / f"{name}-{writer}-of-{writers}.pt"
    if not path.is_file():
        raise FileNotFoundError(f"The shard {path} is missing; {NEEDED}.")
    return path

"""Activations from a file of one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.utils.data import Subset

from datamodules.activations.base import (
    ActivationData,
    ActivationOptions,
    ActivationRows,
    split_sizes,
)
from datamodules.array_files import map_npy
from framework.data.datamodule import check_share
from framework.data.datasets import root_and_rows
from framework.utilities.packages import require_package
from framework.utilities.tensor_archive import load_archive, load_safetensors

SCAN_ROWS = 1 << 14


def read_activations(path: str | Path, key: str | None = None) -> Tensor:
    """Return a tensor (N, d) of floating-point numbers, mapped from its file and not copied.

    Args:
        path: File ``.npy``, ``.safetensors``, or ``.pt`` that holds only tensors and plain
            containers. It is mapped read-only, except that ``.pt`` in torch's old format is read.
        key: Name of the tensor, in a file that holds several.

    Raises:
        FileNotFoundError: no such file.
        ImportError: ``.safetensors`` without ``safetensors``.
        ValueError: it is damaged, holds no such tensor, or one that is not (N, d), not of
            floating-point numbers, or not finite everywhere; the message names file and row.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of activations.")
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_pt}
    if path.suffix not in readers:
        raise ValueError(f"{path}: activations must end in {', '.join(readers)}.")
    values = _chosen(readers[path.suffix](path), path, key)
    if values.layout != torch.strided:
        raise ValueError(f"{path} holds a sparse tensor: save it by tensor.to_dense().")
    if values.ndim != 2 or not values.numel():
        raise ValueError(f"{path} holds {tuple(values.shape)}, not activations (N, d).")
    if not values.is_floating_point():
        raise ValueError(f"{path} holds {values.dtype}, not floating-point numbers.")
    for start in range(0, len(values), SCAN_ROWS):
        finite = values[start : start + SCAN_ROWS].isfinite().all(1)
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise ValueError(f"{path}: row {row:,} of {len(values):,} is not finite.")
    return values


def _read_npy(path: Path) -> Any:
    # copy-on-write: torch warns of memory that must not be written
    values = map_npy(path, "c")
    if not values.dtype.isnative or values.dtype.kind not in "fiub":
        raise ValueError(
            f"{path} holds {values.dtype}, not floating-point numbers of this machine: save it by "
            "np.save(path, values.astype('float32'))."
        )
    return torch.from_numpy(values)


def _read_safetensors(path: Path) -> Any:
    require_package("safetensors", extra="language", purpose=str(path))
    return load_safetensors(path)


def _read_pt(path: Path) -> Any:
    return load_archive(path, mmap=True)


def _chosen(found: Any, path: Path, key: str | None) -> Tensor:
    if isinstance(found, Tensor):
        if key is not None:
            raise ValueError(f"{path} holds one tensor without a name; drop key={key!r}.")
        return found
    tensors = (
        {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    )
    if key is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if key is None or key not in tensors:
        names = ", ".join(repr(name) for name in list(tensors)[:10]) or "none"
        wanted = "one tensor, or name it with key" if key is None else f"a tensor {key!r}"
        raise ValueError(f"{path} must hold {wanted}; its tensors are: {names}.")
    return tensors[key]


class ActivationFile(ActivationData):
    """Activations from a file of one tensor (N, d), shuffled exactly.

    Batches hold ``activation`` (B, d) float32, ``index`` (B,) int64, the row of the file, and with
    ``target_path`` also ``target`` (B, d_out) float32. The last rows are for testing and those
    before them for validation, so that neighbors in a text stay on one side. The files are mapped
    into memory, which all processes of a machine share.

    Args:
        path: File of the activations (N, d): ``.npy``, ``.safetensors`` or ``.pt``.
        target_path: File of what a transcoder predicts; default none.
        key: Name of the tensor, in files that hold several.
        val_size: Rows for validation, as a number (int) or as a share of all rows (float).
        test_size: Rows for testing, as a number (int) or as a share of all rows (float).

    Raises:
        FileNotFoundError: no such file (at ``setup``, as the following are).
        ValueError: a file that ``read_activations`` refuses, files of different lengths, or a
            split that leaves nothing for training.

    Example:
        >>> data = ActivationFile("activations.npy", batch_size=8192, normalization="layernorm")
        >>> data.batch_size
        8192
    """

    def __init__(
        self,
        path: str,
        target_path: str | None = None,
        key: str | None = None,
        val_size: int | float = 0.05,
        test_size: int | float = 0.05,
        **options: Unpack[ActivationOptions],
    ) -> None:
        super().__init__(**options)
        self.path = path
        self.target_path = target_path
        self.key = key
        self.val_size = val_size
        self.test_size = test_size

    def setup(self, stage: str | None = None) -> None:
        """Map the files once, for all stages."""
        if self.train_set is not None:
            return
        values = read_activations(self.path, self.key)
        fields = {"activation": values}
        self.input_size, self.target_size = values.shape[1], None
        if self.target_path is not None:
            target = fields["target"] = read_activations(self.target_path, self.key)
            self.target_size = target.shape[1]
            if len(target) != len(values):
                raise ValueError(
                    f"{self.target_path} has {len(target):,} rows for the {len(values):,} of "
                    f"{self.path}."
                )
        train, val, test = split_sizes(
            len(values), self.val_size, self.test_size, 1, f"rows of {self.path}"
        )
        table = ActivationRows(
            len(values), lambda rows: {name: field[rows] for name, field in fields.items()}
        )
        self._tables = [table]
        self.train_set = Subset(table, range(train))
        self.val_set = Subset(table, range(train, train + val)) if val else None
        self.test_set = Subset(table, range(train + val, train + val + test)) if test else None
        self.predict_set = self.test_set or self.val_set
        self._fit_normalization()

    def _held_and_kept(self, share: float, rows: int) -> tuple[range, range]:
        """Hold out the last rows, as neighbors in a text should stay on one side."""
        kept = rows - check_share(share, rows)
        return range(kept, rows), range(kept)

    def sample(self, rows: int) -> dict[str, Tensor]:
        """Return activations spread evenly over the training part, the same on every rank.

        Args:
            rows: Number of rows; all rows where there are fewer.

        Returns:
            The fields of a batch, in the order of ``index``.
        """
        total = len(self.train_set)  # type: ignore[arg-type]
        rows = min(rows, total)
        places = torch.arange(rows) * total // rows
        index = torch.tensor(root_and_rows(self.train_set, places.tolist())[1])
        return {**self._tables[0].batch(index), "index": index}

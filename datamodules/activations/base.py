"""Base of the datamodules of activations: their common size and a sample of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from framework.data.datamodule import BatchOptions, DataModule, LoaderOptions
from framework.data.datasets import Batch, BatchedDataset
from framework.data.raw_inputs import as_rows
from framework.sparse_coding.normalization import Mode, Normalization
from framework.utilities.checks import check_at_least

SCALE_TOKENS = 1 << 16
"""Activations whose mean norm sets the constant factor."""

Read = Callable[[Tensor], dict[str, Tensor]]


class ActivationRows(BatchedDataset):
    """N activations that are read when they are asked for, in a common size.

    Args:
        num_rows: Number of rows N.
        read: Function from rows (B,) int64 to fields (B, d).
    """

    def __init__(self, num_rows: int, read: Read) -> None:
        self.num_rows = num_rows
        self.read = read
        self.normalizations: dict[str, Normalization] = {}

    def __len__(self) -> int:
        return self.num_rows

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        found = self.read(torch.as_tensor(rows, dtype=torch.int64))
        return {
            name: self.normalizations.get(name, Normalization())(value.float())
            for name, value in found.items()
        }


class ActivationOptions(BatchOptions, total=False):
    """Arguments of ``ActivationData``."""

    normalization: Mode


class ActivationData(DataModule):
    """Base of the sources of activations: their common size, and a sample to start from.

    Batches hold ``activation`` (B, d) float32, ``index`` (B,) int64 and, for transcoders,
    ``target`` (B, d_out) float32.

    The remaining arguments are those of ``DataModule``.

    Args:
        batch_size: Activations of a global batch, over all ranks.
        eval_batch_size: Activations of a global batch outside training; default ``batch_size``.
        normalization: Common size of activations: ``constant`` multiplies all by the root of d over
            their mean norm in a sample of 65,536 from the training part, ``layernorm`` standardizes
            each, ``none`` leaves them as they are.
    """

    input_size: int
    """Width d of an activation; known after ``setup``, as the following are."""
    target_size: int | None
    """Width d_out of a target; None without targets."""
    normalizations: dict[str, Normalization]
    """Normalization of each field, ``activation`` and ``target``."""

    def __init__(
        self,
        batch_size: int = 4096,
        normalization: Mode = "constant",
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        self.normalization = Normalization(normalization).mode
        self._tables: list[ActivationRows] = []

    def sample(self, rows: int) -> dict[str, Tensor]:
        """Return activations spread evenly over the training part, the same on every rank.

        All ranks must call it.

        Args:
            rows: Least number of rows; all rows where there are fewer.

        Returns:
            The fields of a batch, in the order of ``index``.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no sample.")

    def _fit_normalization(self) -> None:
        """Take the common size from training, or find it from a sample of raw activations."""
        fields = ["activation"] if self.target_size is None else ["activation", "target"]
        known = self.trained.get("activation_scales", {})
        if [known.get(n, [None])[0] for n in fields] == [self.normalization] * len(fields):
            self._use({n: Normalization(*known[n]) for n in fields})
            return
        found: dict[str, Tensor] = {}
        if self.normalization == "constant":
            found = self.sample(SCALE_TOKENS)
        empty = torch.empty(0, 1)
        self._use(
            {n: Normalization.fitted(self.normalization, found.get(n, empty)) for n in fields}
        )

    def _use(self, normalizations: dict[str, Normalization]) -> None:
        self.normalizations = normalizations
        for table in self._tables:
            table.normalizations = normalizations

    def as_batch(self, inputs: Any) -> Batch:
        """Return activations (N, d) as a batch in the common size.

        Raises:
            ValueError: Another shape, or a transcoder's data, whose batches have targets too.
        """
        if "target" in self.normalizations:
            raise ValueError(
                f"{type(self).__name__} has targets: give a batch, a dict with activation and "
                "target."
            )
        rows = as_rows(inputs).float()
        return {"activation": self.normalizations.get("activation", Normalization())(rows)}

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Restore the common size."""
        self._use({name: Normalization(*v) for name, v in state.get("normalizations", {}).items()})

    @property
    def activation_scales(self) -> dict[str, list[Any]]:
        """Mode and factor of the normalization of each field, in plain values."""
        return {n: [v.mode, v.scale] for n, v in getattr(self, "normalizations", {}).items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity, the place in it, and the common size."""
        return {**super().state_dict(), "normalizations": self.activation_scales}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream in the saved size.

        Raises:
            RuntimeError: another normalization, or see the base class.
        """
        saved = {n: Normalization(*v) for n, v in state_dict["normalizations"].items()}
        other = {v.mode for v in saved.values()} - {self.normalization}
        if other:
            raise RuntimeError(
                f"The checkpoint was trained on activations with normalization={other.pop()!r}, "
                f"and cannot continue with {self.normalization!r}."
            )
        if saved:
            self._use(saved)
        super().load_state_dict(state_dict)


def split_sizes(
    total: int, val_size: int | float, test_size: int | float, unit: int, what: str
) -> tuple[int, int, int]:
    """Return how many rows are for training, validation and testing.

    Args:
        total: Number of rows.
        val_size: Rows (int) or share of all (float) for validation, rounded up to whole units.
        test_size: Rows (int) or share of all (float) for testing, rounded up to whole units.
        unit: Rows that stay together.
        what: Name of the rows in messages.

    Raises:
        ValueError: nothing is left for training, or a size is negative.
    """
    held = []
    for name, size in (("val_size", val_size), ("test_size", test_size)):
        rows = round(size * total) if isinstance(size, float) else size
        check_at_least(0, **{name: size})
        held.append(-(-rows // unit) * unit)
    train = total - sum(held)
    if train < 1:
        raise ValueError(
            f"val_size={val_size} and test_size={test_size} leave none of the {total:,} {what} for "
            "training."
        )
    return train, held[0], held[1]

"""Losses that compare what a network says now with what it said before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.distributed.sample_state import Layout, SampleState, read_rows, write_rows
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.precision import at_least_float32


def check_logits(shape: Sequence[int]) -> None:
    """Refuse predictions that are no distribution over classes.

    Args:
        shape: Shape of one row of the predictions, (..., C).

    Raises:
        ValueError: There is no axis of classes, or only one class.
    """
    if len(shape) < 1 or shape[-1] < 2:
        raise ValueError(
            "The past of a run is compared as logits of at least two classes, but a row of the "
            f"predictions has the shape {tuple(shape)}."
        )


def trajectory_divergence(logits: Tensor, past: Tensor, temperature: float) -> Tensor:
    """Return ``temperature**2 * KL(softmax(past / temperature) || softmax(logits / temperature))``.

    The factor keeps gradients of one size over temperatures; it stands in the authors' code, not in
    the paper's formula. For large temperatures the value approaches half the variance of
    ``logits - past`` over the classes.

    Paper: Du et al., *Sharpness-Aware Training for Free*, NeurIPS 2022, arXiv:2205.14083.

    Args:
        logits: Predictions (B, ..., C) with gradient; half precision is computed in float32.
        past: Constant target of the same shape.
        temperature: Positive divisor of both.

    Returns:
        Divergence (B,), summed over the classes and over any axes in between.

    Raises:
        ValueError: The shapes differ, or there are fewer than two classes.

    Example:
        >>> now = torch.tensor([[2.0, 0.5, -1.0]])
        >>> before = torch.tensor([[1.0, 1.0, 0.0]])
        >>> round(float(trajectory_divergence(now, before, 5.0)), 6)
        0.367967
    """
    if logits.shape != past.shape:
        raise ValueError(
            f"The predictions changed their shape from {tuple(past.shape)} to "
            f"{tuple(logits.shape)}."
        )
    check_logits(logits.shape[1:])
    logits = at_least_float32(logits)
    with torch.autocast(device_type=logits.device.type, enabled=False):
        log_now = F.log_softmax(logits / temperature, dim=-1)
        log_past = F.log_softmax(past.detach().to(logits.dtype) / temperature, dim=-1)
        divergence = F.kl_div(log_now, log_past, reduction="none", log_target=True)
        return temperature**2 * divergence.flatten(1).sum(1)


def is_active(epoch: int, start_epoch: int, end_epoch: int | None) -> bool:
    """Return whether ``start_epoch < epoch < end_epoch``; None is the end of the run."""
    return start_epoch < epoch and (end_epoch is None or epoch < end_epoch)


def check_epoch(epoch: int) -> None:
    """Raise ``ValueError`` unless ``epoch`` is an integer from 0."""
    if not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"epoch must be an integer of at least 0, got {epoch!r}.")


def check_divergence_term(
    weight: float, temperature: float, start_epoch: int, end_epoch: int | None
) -> None:
    """Raise ``ValueError`` unless the arguments of a term against the past are in range."""
    check_at_least(0, weight=weight)
    check_positive(temperature=temperature)
    if end_epoch is not None and end_epoch <= start_epoch + 1:
        raise ValueError(
            f"No epoch lies between start_epoch={start_epoch} and end_epoch={end_epoch}."
        )


def check_lag(lag_epochs: int, start_epoch: int) -> None:
    """Raise ``ValueError`` unless an entry may exist in the first active epoch."""
    check_at_least(1, lag_epochs=lag_epochs)
    if start_epoch + 1 < lag_epochs:
        raise ValueError(
            f"With lag_epochs={lag_epochs} nothing is remembered before epoch {lag_epochs}: "
            f"start_epoch must be at least {lag_epochs - 1}, got {start_epoch}."
        )


class TrajectoryLoss(nn.Module):
    """Term of SAF: the divergence between a sample's logits now and some epochs ago.

    The logits of every training sample are remembered by its index; those of ``lag_epochs`` epochs
    ago are the constant target, so that no further forward or backward pass is needed. It is called
    once per training batch in every epoch, also before it is active, and its value is added to the
    loss. In evaluation mode it is zero and remembers nothing.

    Rows without an entry of exactly that epoch count as zero. Logits that are not finite are never
    remembered. The memory is in ``state_dict()`` with the layout ``replicated``, of which every
    rank holds all of it; tables of the other layouts in ``history`` and ``written`` save their own
    shards, and ``memmap`` asks for a barrier at the end of each epoch.

    Paper: Du et al., *Sharpness-Aware Training for Free*, NeurIPS 2022, arXiv:2205.14083. As the
    authors' code and unlike the paper's formula, the term carries ``temperature**2``. Unlike their
    code, whose history is private to a process while samples move between processes, every row is
    found again on any number of ranks, and a row of another epoch is never used.

    Args:
        num_samples: Number N of training samples.
        num_classes: Number C of classes, or the shape (..., C) of a sample's logits.
        lag_epochs: Epochs between the target and now.
        weight: Factor lambda of the term.
        temperature: Divisor tau of the logits.
        start_epoch: Last epoch, from 0, before the term is active.
        end_epoch: First epoch after the term was active; None for the end of the run.
        dtype: Type of the history; float16 halves its N x (lag + 1) x C numbers.
        device: Device of the history.
        layout: Placement of the history over ranks, as in ``SampleState``.
        shards: Fixed assignment of samples to ranks, for the layout ``local``.
        directory: Folder of the file, for the layout ``memmap``.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> trajectory = TrajectoryLoss(num_samples=8, num_classes=3, lag_epochs=1, start_epoch=0)
        >>> index = torch.arange(4)
        >>> trajectory(torch.zeros(4, 3), index, epoch=0)
        tensor(0.)
        >>> logits = torch.tensor([[1.0, 0.0, 0.0]]).repeat(4, 1).requires_grad_()
        >>> round(trajectory(logits, index, epoch=1).item(), 4)
        0.034
    """

    def __init__(
        self,
        num_samples: int,
        num_classes: int | Sequence[int],
        lag_epochs: int = 3,
        *,
        weight: float = 0.3,
        temperature: float = 5.0,
        start_epoch: int = 5,
        end_epoch: int | None = None,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
        layout: Layout = "replicated",
        shards: int | None = None,
        directory: Path | str | None = None,
    ) -> None:
        super().__init__()
        shape = (num_classes,) if isinstance(num_classes, int) else tuple(num_classes)
        check_logits(shape)
        check_divergence_term(weight, temperature, start_epoch, end_epoch)
        check_lag(lag_epochs, start_epoch)
        self.lag_epochs = lag_epochs
        self.weight = weight
        self.temperature = temperature
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.shape = shape

        def table(row: tuple[int, ...], dtype: torch.dtype, fill: float) -> SampleState:
            return SampleState(
                num_samples,
                row,
                fill=fill,
                dtype=dtype,
                device=device,
                layout=layout,
                shards=shards,
                directory=directory,
            )

        # one slot more than the lag: a read can then never meet a write of the same epoch
        slots = range(lag_epochs + 1)
        self.history = [table(shape, dtype, 0.0) for _ in slots]
        """Logits, one table per slot; epoch e lies in slot e modulo their number."""
        self.written = [table((), torch.int32, -1) for _ in slots]
        """Epoch of each row of ``history``, -1 for none."""

    def forward(self, logits: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Return the weighted term, the mean over the batch, and remember the logits.

        Args:
            logits: Predictions (B, ..., C) with gradient.
            index: Positions (B,) int64 in the full training set.
            epoch: Number of the epoch, from 0.

        Returns:
            Scalar; a constant zero in epochs in which the term is not active.

        Raises:
            ValueError: Logits of another shape than at the start, not one index for each row, or an
                epoch that is no integer from 0.
        """
        zero = at_least_float32(logits).new_zeros(())
        if not self.training:
            return zero
        self._check(logits, index, epoch)
        found = self.compare(logits, index, epoch)
        self.remember(logits, index, epoch)
        return zero if found is None else self.weight * found[0].sum() / max(1, len(index))

    def _check(self, logits: Tensor, index: Tensor, epoch: int) -> None:
        check_epoch(epoch)
        if logits.shape[1:] != self.shape:
            raise ValueError(
                f"A row of the logits must have the shape {self.shape}, as num_classes says, got "
                f"{tuple(logits.shape[1:])}."
            )
        if index.shape != logits.shape[:1] or index.dtype != torch.int64:
            raise ValueError(
                f"index must hold one int64 position for each of the {len(logits)} rows of the "
                f"logits, got {index.dtype} of the shape {tuple(index.shape)}."
            )

    def active(self, epoch: int) -> bool:
        """Return whether the term counts in this epoch, from 0."""
        return is_active(epoch, self.start_epoch, self.end_epoch)

    def compare(self, logits: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, Tensor] | None:
        """Return the divergence (B,) and which rows have an entry (B,) bool; None where inactive.

        The divergence is without the weight, and 0 in rows without an entry.
        """
        if not self.active(epoch):
            return None
        past_epoch = epoch - self.lag_epochs
        slot = past_epoch % len(self.history)
        past, written = read_rows([self.history[slot], self.written[slot]], index)
        missing = written != past_epoch
        divergence = trajectory_divergence(logits, past, self.temperature)
        return divergence.masked_fill(missing, 0), ~missing

    def remember(self, logits: Tensor, index: Tensor, epoch: int) -> None:
        """Write the logits of this epoch where an active epoch will read them."""
        if not self.active(epoch + self.lag_epochs):
            return
        slot = epoch % len(self.history)
        outputs = logits.detach().to(self.history[slot].dtype)
        largest = torch.linalg.vector_norm(outputs.flatten(1), torch.inf, dim=1)
        broken = ~(largest < torch.inf)
        outputs = outputs.masked_fill(broken.view(-1, *[1] * (outputs.ndim - 1)), 0)
        # a row that is not finite counts as never written
        stamp = torch.full_like(broken, epoch, dtype=torch.int32).masked_fill_(broken, -1)
        write_rows([self.history[slot], self.written[slot]], index, [outputs, stamp])

    def reset(self) -> None:
        """Forget all logits, as when labels change and the past is no target any more."""
        for table in self.written:
            table.fill_(-1)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the memory, for ``state_dict``; nothing of a sharded layout."""
        return {
            name: [table.state_dict() for table in tables if table.layout == "replicated"]
            for name, tables in self._tables().items()
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what ``get_extra_state`` returned."""
        for name, tables in self._tables().items():
            for table, saved in zip(tables, state[name], strict=False):
                table.load_state_dict(saved)

    def _tables(self) -> dict[str, list[SampleState]]:
        return {"history": self.history, "written": self.written}

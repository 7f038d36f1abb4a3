"""Collective operations of several ranks; with one process, nearly the identity.

Everything here works without a process group, and then no function communicates. With one, every
function except ``world_size``, ``rank`` and ``shared_generator`` is collective: all
ranks must call it, a rank without rows with an empty tensor. Rank r holds the r-th slice of the
global batch, so that rows in rank order are rows in the order of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from framework.utilities.devices import to_device
from framework.utilities.randomness import stable_seed


def world_size() -> int:
    """Return the number of ranks W; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def raise_on_all_ranks(error: Exception | None) -> None:
    """Raise an error on every rank if there is one on any, as the others would wait in vain.

    Args:
        error: What went wrong on this rank, or None.

    Raises:
        ValueError: Something went wrong on another rank.
    """
    if world_size() > 1:
        said: list[Any] = [None] * world_size()
        dist.all_gather_object(said, None if error is None else str(error))
        failed = [number for number, text in enumerate(said) if text is not None]
        if error is None and failed:
            raise ValueError(f"Rank {failed[0]}: {said[failed[0]]}")
    if error is not None:
        raise error


def rows_per_rank(rows: int, device: torch.device | str = "cpu") -> list[int]:
    """Return how many rows every rank holds; ``[rows]`` on one process.

    Args:
        rows: Number of rows of this rank.
        device: Device on which to communicate.
    """
    if world_size() == 1:
        return [rows]
    counts: list[int] = torch.stack(_all_gather(torch.full((), rows, device=device))).tolist()
    return counts


def gather(x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Return the rows of all ranks, without gradient; ``x.detach()`` on one process.

    Moves bytes, so that every dtype arrives bit by bit.

    Args:
        x: (B_r, ...), where B_r may differ from rank to rank and be 0, the rest of the shape may
            not.
        counts: Rows B_0, ..., B_{W-1} of the ranks if known, which saves a round trip; see
            ``rows_per_rank``.

    Returns:
        (sum of B_r, ...) in rank order, the same on every rank.

    Raises:
        ValueError: the ranks' rows differ in size.
    """
    x = x.detach()
    if world_size() == 1:
        return x
    row_bytes = x.shape[1:].numel() * x.element_size()
    if counts is None:
        sizes = _all_gather(to_device(torch.tensor([len(x), row_bytes]), x.device))
        counts, widths = torch.stack(sizes).T.tolist()
        if len(set(widths)) > 1:
            raise ValueError(f"gather: a row has {widths} bytes on ranks 0 to {len(widths) - 1}.")
    padded = x.new_empty(max(counts) * row_bytes, dtype=torch.uint8)
    padded[: len(x) * row_bytes] = _bytes(x)
    parts = [
        part[: count * row_bytes] for part, count in zip(_all_gather(padded), counts, strict=True)
    ]
    return torch.cat(parts).view(x.dtype).view(sum(counts), *x.shape[1:])


def gather_with_grad(x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Return the rows of all ranks, differentiably; ``x`` on one process.

    A rank's gradient is the sum of all ranks' gradients for its own rows. Where every rank computes
    the same loss from the gathered rows, that is W times its share, which DDP's average over ranks
    turns into the gradient of one process. May be differentiated twice.

    Args:
        x: (B_r, ...), see ``gather``.
        counts: Rows B_0, ..., B_{W-1} of the ranks if known.

    Returns:
        (sum of B_r, ...) in rank order.

    Example:
        >>> import torch
        >>> from framework.distributed.collectives import gather_with_grad
        >>> gather_with_grad(torch.tensor([[1.0], [2.0]], requires_grad=True)).shape
        torch.Size([2, 1])
    """
    if world_size() == 1:
        return x
    counts = rows_per_rank(len(x), x.device) if counts is None else counts
    return _Gather.apply(x, counts)


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over ranks, without gradient; ``x.detach()`` on one process.

    Args:
        x: Tensor of any shape, the same on every rank; it is not changed.
    """
    if world_size() == 1:
        return x.detach()
    total = x.detach().to(_channel(x.device), copy=True).contiguous()
    dist.all_reduce(total)
    return total.to(x.device)


def all_reduce_sum_with_grad(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over ranks; the gradient is summed likewise; ``x`` on one process.

    As for ``gather_with_grad``, DDP's average then gives the gradient of one process. May be
    differentiated twice.

    Args:
        x: Tensor of any shape, the same on every rank.
    """
    return x if world_size() == 1 else _AllReduceSum.apply(x)


def all_reduce_max(x: Tensor) -> Tensor:
    """Return the elementwise maximum of ``x`` over ranks, without gradient.

    Args:
        x: Tensor of any shape, the same on every rank; it is not changed.
    """
    if world_size() == 1:
        return x.detach()
    largest = x.detach().to(_channel(x.device), copy=True).contiguous()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.to(x.device)


def global_mean(per_sample: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return ``W * sum(w * l) / all_reduce(sum(w))``; on one process the weighted mean.

    The average over ranks, of the value and (by DDP) of the gradient, is that of the weighted mean
    over the global batch, however uneven the ranks are.

    Args:
        per_sample: (B_r, ...) values l.
        weight: Non-negative weights of the same shape, constant for the gradient; 0 drops a value,
            even an infinite one. Default 1.

    Returns:
        A scalar; 0 with a gradient path where nothing counts.
    """
    if weight is None:
        total = per_sample.sum()
        count = per_sample.new_full((), per_sample.numel(), dtype=torch.float64)
    else:
        weight = weight.detach().to(per_sample.dtype)
        # 0 * inf would be NaN
        total = torch.where(weight > 0, weight * per_sample, 0.0).sum()
        count = weight.sum(dtype=torch.float64)
    count = all_reduce_sum(count)
    scale = torch.where(count > 0, world_size() / count, 0.0)
    return total * scale.to(total.dtype)


def global_topk(values: Tensor, k: int) -> Tensor:
    """Mark this rank's rows among the ``k`` largest of the global batch.

    Exactly ``min(k, rows of the global batch)`` rows are marked over all ranks. Of equal values the
    earlier row of the global batch is taken; NaN ranks with minus infinity.

    Args:
        values: (B_r,).
        k: Number of values, at least 0.

    Returns:
        (B_r,) bool.

    Raises:
        ValueError: ``k`` is negative or ``values`` is not one-dimensional.

    Example:
        >>> import torch
        >>> from framework.distributed.collectives import global_topk
        >>> global_topk(torch.tensor([1.0, 3.0, 2.0, 3.0]), k=2)
        tensor([False,  True, False,  True])
    """
    if k < 0 or values.ndim != 1:
        raise ValueError(
            f"global_topk takes k >= 0 and values (B,), got {k} and {tuple(values.shape)}."
        )
    counts = rows_per_rank(len(values), values.device)
    everyone = gather(values, counts)
    if everyone.is_floating_point():
        everyone = torch.where(everyone.isnan(), -torch.inf, everyone)
    best = everyone.sort(descending=True, stable=True).indices[:k]
    chosen = torch.zeros_like(everyone, dtype=torch.bool).index_fill(0, best, True)
    return chosen[_own_rows(counts)]


def shared_generator(
    seed: int,
    step: int,
    name: str,
    device: torch.device | str = "cpu",
    micro_batch: int = 0,
) -> torch.Generator:
    """Return a generator that is in the same state on every rank; never communicates.

    Args:
        seed: Seed of the run.
        step: Global step, so that a resumed run draws what the first one would have drawn.
        name: Name of what is drawn; different names give independent numbers.
        device: Device of the generator. CPU and GPU draw different numbers from one seed.
        micro_batch: Number of the batch among those whose gradients make one step.
    """
    # the first batch has the numbers of a step that is one batch
    part = (micro_batch,) if micro_batch else ()
    return torch.Generator(device).manual_seed(stable_seed(seed, step, name, *part))


def draw_for_global_batch(
    sampler: Callable[[int, torch.Generator], Tensor],
    rows: int,
    generator: torch.Generator,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """Draw noise for the global batch and return this rank's rows of it.

    W ranks so get the noise that one process would. All ranks' generators move on equally.

    Args:
        sampler: Function called once as ``sampler(n, generator)``; it returns (n, ...).
        rows: Number of rows B_r of this rank.
        generator: Generator in the same state on every rank, see ``shared_generator``.
        counts: Rows B_0, ..., B_{W-1} of the ranks if known; nothing is then communicated.

    Returns:
        (B_r, ...).

    Example:
        >>> import torch
        >>> from framework.distributed.collectives import draw_for_global_batch, shared_generator
        >>> generator = shared_generator(seed=0, step=12, name="attack")
        >>> noise = draw_for_global_batch(
        ...     lambda n, g: torch.rand(n, 3, generator=g), rows=4, generator=generator
        ... )
        >>> noise.shape
        torch.Size([4, 3])
    """
    counts = rows_per_rank(rows, generator.device) if counts is None else counts
    return sampler(sum(counts), generator)[_own_rows(counts)]


def exchanged_counts(counts: Tensor) -> tuple[list[int], list[int]]:
    """Return how many rows go to each rank, and how many come from each; a collective call.

    Args:
        counts: Number of rows for each of the W ranks, (W,) int64, on any device.
    """
    if world_size() == 1:
        return counts.tolist(), counts.tolist()
    sent = counts.to(_channel(counts.device))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    # one copy, as each makes the host wait for a GPU
    here, there = torch.stack([sent, received]).tolist()
    return here, there


def all_to_all(
    x: Tensor, counts: Sequence[int], arriving: Sequence[int] | None = None
) -> tuple[Tensor, list[int]]:
    """Send the first ``counts[0]`` rows to rank 0, the next ``counts[1]`` to rank 1, and so on.

    Without gradient; on one process ``x.detach()`` and ``counts``. Moves bytes, as ``gather``.

    Args:
        x: (sum of counts, ...), with the same shape of a row on every rank.
        counts: Number of rows for each of the W ranks, which may be 0.
        arriving: Number of rows from each rank if known, see ``exchanged_counts``.

    Returns:
        The rows received, in the order of the ranks they come from, and how many came from each.
    """
    x = x.detach()
    if world_size() == 1:
        return x, list(counts)
    channel = _channel(x.device)
    if arriving is None:
        arriving = exchanged_counts(to_device(torch.tensor(counts), channel))[1]
    row_bytes = x.shape[1:].numel() * x.element_size()
    outgoing = _bytes(x).to(channel)
    incoming = outgoing.new_empty(sum(arriving) * row_bytes)
    dist.all_to_all_single(
        incoming,
        outgoing,
        [count * row_bytes for count in arriving],
        [count * row_bytes for count in counts],
    )
    rows = incoming.to(x.device).view(x.dtype).view(sum(arriving), *x.shape[1:])
    return rows, list(arriving)


def barrier() -> None:
    """Wait until every rank has arrived; returns at once on one process."""
    if world_size() > 1:
        dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        return gather(x, counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduce_sum_with_grad(grad)[_own_rows(ctx.counts)], None


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce_sum(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduce_sum_with_grad(grad)


def _own_rows(counts: Sequence[int]) -> slice:
    start = sum(counts[: rank()])
    return slice(start, start + counts[rank()])


def _bytes(x: Tensor) -> Tensor:
    # `reshape` alone leaves gaps in a slice with a step
    return x.contiguous().view(-1).view(torch.uint8)


def _all_gather(x: Tensor) -> list[Tensor]:
    """Return ``x`` of every rank; shapes are equal."""
    sent = x.to(_channel(x.device)).contiguous()
    parts = [torch.empty_like(sent) for _ in range(world_size())]
    dist.all_gather(parts, sent)
    return [part.to(x.device) for part in parts]


def _channel(device: torch.device) -> torch.device:
    """Return the device on which tensors of ``device`` travel; NCCL takes no CPU tensors."""
    if f"{device.type}:" in dist.get_backend_config():
        return device
    return torch.device("cuda", torch.cuda.current_device())

"""Copies between host and device: their bytes, and whether the host waits for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.pretended_gpu.marks import (
    CPU,
    TensorBase,
    device_of,
    is_pinned,
    mark,
    without_function_modes,
)
from tests.pretended_gpu.operation import Operation
from tests.pretended_gpu.state import PretendedGPU, current


def note_copies(op: Operation, gpu: PretendedGPU) -> None:
    """Note what an operation of ``rules.COPIES`` copies between host and device."""
    if op.name == "aten::_to_copy" and gpu.targets:
        target = gpu.targets[-1] if gpu.targets[-1].type == "cuda" else None
        _note_copy(op.args[0], target, op.args[0], bool(op.kwargs.get("non_blocking")), gpu)
    elif op.name in ("aten::copy_", "aten::_foreach_copy_"):
        quick = bool(op.kwargs.get("non_blocking") or (len(op.args) > 2 and op.args[2]))
        targets, sources = op.args[:2]
        if isinstance(targets, Tensor):
            targets, sources = [targets], [sources]
        for target, source in zip(targets, sources, strict=True):
            place = device_of(target)
            if op.name == "aten::copy_" and gpu.is_internal and place != device_of(source):
                # C++ made one of them where it made all else, as DDP its buckets
                device = device_of(source) or place
                assert device is not None
                mark(target, device, gpu.memory)
            else:
                _note_copy(target, place, source, quick, gpu)


def _note_copy(
    written: Tensor, target: torch.device | None, source: Tensor, quick: bool, gpu: PretendedGPU
) -> None:
    """Note a copy if it is one between host and device.

    Args:
        written: Tensor that is written to, or the source where that is yet to be made.
        target: Device that is written to, None for the CPU.
        source: Tensor that is read.
        quick: Whether the host need not wait.
        gpu: Device.
    """
    origin = device_of(source)
    if target == origin:
        return
    to_host = target is None
    pinned = is_pinned(written if to_host and device_of(written) is None else source)
    way = "to the host" if to_host else "to the device"
    gpu.note("copy", f"{way}, {'pinned' if pinned else 'pageable'}", size=source.nbytes)
    if not quick:
        gpu.note("wait", f"copy {way}")
    elif to_host and written is source:
        # copy_ to a buffer is for those who wait for an event
        gpu.fault("a non_blocking copy to the CPU: its numbers may be read before they arrive")
    elif not pinned:
        gpu.note("unpinned", "non_blocking copy from pageable memory")


class _Move(torch.autograd.Function):
    """A copy to another device whose gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: torch.device, dtype: torch.dtype, quick: bool) -> Any:
        ctx.back, ctx.dtype = device_of(x) or CPU, x.dtype
        return copied(x, target, dtype, quick)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return copied(gradient, ctx.back, ctx.dtype, False), None, None, None


def moved(x: Tensor, target: torch.device, dtype: torch.dtype, quick: bool) -> Tensor:
    """Return a copy on another device, for autograd too."""
    if x.requires_grad and torch.is_grad_enabled():
        return _Move.apply(x, target, dtype, quick)
    return copied(x, target, dtype, quick)


def copied(x: Tensor, target: torch.device, dtype: torch.dtype, quick: bool) -> Tensor:
    """Return a copy on another device."""
    targets = current().targets
    targets.append(target)
    try:
        # explicitly to the CPU, so that the operation names a device
        return without_function_modes(TensorBase.to, x.detach(), CPU, dtype, quick, True)
    finally:
        targets.pop()

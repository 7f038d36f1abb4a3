"""What ``torch.save`` copies from a device to a file, and ``torch.load`` back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tests.pretended_gpu.marks import device_of_storage, mark_storage
from tests.pretended_gpu.state import PretendedGPU, current, is_active

_seen: set[int] = set()
"""Storages that the call of ``torch.save`` under way has copied."""


@functools.cache
def register() -> None:
    """Let torch's archives keep where storages are, inside the block of a pretended device."""
    # before torch's own of the CPU (10), which would take every storage
    torch.serialization.register_package(5, _location, _restored)


def save(original: Callable[..., None]) -> Callable[..., None]:
    """Return what stands in for ``torch.save``."""

    @functools.wraps(original)
    def stand_in(*args: Any, **kwargs: Any) -> None:
        _seen.clear()
        original(*args, **kwargs)

    return stand_in


def clone(original: Callable[[Any], Any], gpu: PretendedGPU) -> Callable[[Any], Any]:
    """Return what stands in for ``UntypedStorage.clone``, by which tensors are copied deeply."""

    def stand_in(storage: Any) -> Any:
        copy = original(storage)
        if (device := device_of_storage(storage)) is not None:
            mark_storage(copy, device, gpu.memory)
        return copy

    return stand_in


def _location(storage: Any) -> str | None:
    device = device_of_storage(storage) if is_active() else None
    if device is None:
        return None
    if storage._cdata not in _seen:
        _seen.add(storage._cdata)
        current().note("wait", "torch.save")
        current().note("copy", "to the host, pageable", size=storage.nbytes())
    return str(device)


def _restored(storage: Any, location: str) -> Any:
    device = current().device(location) if is_active() else None
    if device is None:
        return None
    current().note("wait", "torch.load")
    current().note("copy", "to the device, pageable", size=storage.nbytes())
    mark_storage(storage, device, current().memory)
    return storage

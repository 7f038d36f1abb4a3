"""Where a tensor pretends to be: a mark on its storage, which views and gradients share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CPU = torch.device("cpu")
BLOCK = 512  # bytes: what CUDA's allocator rounds sizes up to
_ALLOCATION, _PINNED = "_pretended_allocation", "_pretended_pinned"
# as they are, without what stands in for them
TensorBase: Any = torch._C.TensorBase
WithoutFunctionModes: Any = torch._C.DisableTorchFunction
_storage_of, _device_of = TensorBase.untyped_storage, TensorBase.device.__get__


@dataclass
class Memory:
    """Bytes that tensors take on the device, now and at most, as of ``torch.cuda``'s statistics."""

    allocated: int = 0
    peak: int = 0

    def take(self, size: int) -> None:
        """Add an allocation."""
        self.allocated += size
        self.peak = max(self.peak, self.allocated)


class _Allocation:
    """What a storage takes on a device, for as long as the storage lives."""

    def __init__(self, device: torch.device, size: int, memory: Memory) -> None:
        self.device, self.memory = device, memory
        self.size = -(-size // BLOCK) * BLOCK
        memory.take(self.size)

    def __del__(self) -> None:
        self.memory.allocated -= self.size


def without_function_modes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what a function returns without the modes that see calls."""
    with WithoutFunctionModes():
        return function(*args, **kwargs)


def storage_of(x: Tensor) -> torch.UntypedStorage | None:
    """Return a tensor's storage, None for sparse tensors and the wrappers of ``torch.func``."""
    with WithoutFunctionModes():
        try:
            storage: torch.UntypedStorage = _storage_of(x)
            return storage
        except (RuntimeError, NotImplementedError):
            return None


def device_of(x: Tensor) -> torch.device | None:
    """Return where a tensor pretends to be, None for the CPU."""
    storage = storage_of(x)
    return None if storage is None else device_of_storage(storage)


def device_of_storage(storage: torch.UntypedStorage) -> torch.device | None:
    """Return where a storage pretends to be, None for the CPU."""
    allocation = storage.__dict__.get(_ALLOCATION)
    return None if allocation is None else allocation.device


def device_in_fact(x: Tensor) -> torch.device:
    """Return where a tensor's numbers are."""
    device: torch.device = without_function_modes(_device_of, x)
    return device


def mark(x: Tensor, device: torch.device, memory: Memory) -> None:
    """Let a tensor be on a device, if it is not on one already."""
    storage = storage_of(x)
    if storage is not None and device_of_storage(storage) is None:
        mark_storage(storage, device, memory)


def mark_storage(storage: torch.UntypedStorage, device: torch.device, memory: Memory) -> None:
    """Let a storage be on a device."""
    storage.__dict__[_ALLOCATION] = _Allocation(device, storage.nbytes(), memory)


def pin(x: Tensor) -> None:
    """Let a tensor of the CPU be in pinned memory."""
    storage = storage_of(x)
    assert storage is not None
    storage.__dict__[_PINNED] = True


def is_pinned(x: Tensor) -> bool:
    """Return whether a tensor of the CPU is in pinned memory."""
    storage = storage_of(x)
    return storage is not None and storage.__dict__.get(_PINNED, False)


def flat_tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments and in their lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from flat_tensors(value)

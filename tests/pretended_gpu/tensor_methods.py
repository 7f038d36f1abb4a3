"""What stands in for methods of ``torch.Tensor`` that know a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.pretended_gpu.copies import moved
from tests.pretended_gpu.marks import (
    CPU,
    TensorBase,
    device_in_fact,
    device_of,
    is_pinned,
    pin,
    without_function_modes,
)
from tests.pretended_gpu.state import current


def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand in for ``Tensor.to``: (other), (dtype) or (device, dtype), then non_blocking, copy."""
    rest = list(args)
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    other = kwargs.pop("other", None)
    if rest and isinstance(rest[0], Tensor):
        other = rest.pop(0)
    if other is not None:
        device, dtype = other.device, other.dtype
    elif rest and isinstance(rest[0], torch.dtype):
        dtype = rest.pop(0)
    elif rest and not isinstance(rest[0], bool):
        device = rest.pop(0)
        if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
            dtype = rest.pop(0)
    quick = bool(rest.pop(0) if rest else kwargs.pop("non_blocking", False))
    copy = bool(rest.pop(0) if rest else kwargs.pop("copy", False))
    dtype = self.dtype if dtype is None else dtype
    if device is None:
        return without_function_modes(TensorBase.to, self, dtype, quick, copy, **kwargs)
    wanted = current().device(device)
    if wanted is None and torch.device(device).type != "cpu":
        return without_function_modes(TensorBase.to, self, device, dtype, quick, copy, **kwargs)
    if wanted != device_of(self):
        return moved(self, wanted or CPU, dtype, quick)
    return without_function_modes(TensorBase.to, self, dtype, quick, copy, **kwargs)


def cuda(
    self: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = None
) -> Tensor:
    """Stand in for ``Tensor.cuda``."""
    return to(self, "cuda" if device is None else device, non_blocking=non_blocking)


def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """Stand in for ``Tensor.cpu``."""
    return to(self, CPU)


def numpy(self: Tensor, *, force: bool = False) -> Any:
    """Stand in for ``Tensor.numpy``, which CUDA refuses."""
    if (device := device_of(self)) is not None:
        if force:
            return without_function_modes(TensorBase.numpy, to(self, CPU), force=True)
        current().fault(
            f"can't convert {device} device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first.",
            TypeError,
        )
    return without_function_modes(TensorBase.numpy, self, force=force)


def tolist(self: Tensor) -> Any:
    """Stand in for ``Tensor.tolist``, which copies once."""
    if device_of(self) is not None:
        current().note("wait", "tolist")
        current().note("copy", "to the host, pageable", size=self.nbytes)
    return without_function_modes(TensorBase.tolist, self)


def new_tensor(self: Tensor, data: Any, **kwargs: Any) -> Tensor:
    """Stand in for ``Tensor.new_tensor``."""
    kwargs.setdefault("device", self.device)
    kwargs.setdefault("dtype", data.dtype if isinstance(data, Tensor) else self.dtype)
    return torch.tensor(data, **kwargs)


def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """Stand in for ``Tensor.pin_memory``, which CUDA refuses for its own tensors."""
    if device_of(self) is not None:
        current().fault("cannot pin a CUDA tensor: only dense CPU tensors can be pinned")
    copy: Tensor = without_function_modes(TensorBase.clone, self.detach())
    pin(copy)
    return copy


def _device(self: Tensor) -> torch.device:
    return device_of(self) or device_in_fact(self)


STAND_INS: dict[str, Any] = {
    "device": property(_device),
    "is_cuda": property(lambda self: device_of(self) is not None),
    "is_cpu": property(lambda self: _device(self).type == "cpu"),
    "get_device": lambda self: -1 if device_of(self) is None else _device(self).index,
    "to": to,
    "cuda": cuda,
    "cpu": cpu,
    "numpy": numpy,
    "tolist": tolist,
    "new_tensor": new_tensor,
    "type_as": lambda self, other: to(self, other),
    "pin_memory": pin_memory,
    "is_pinned": lambda self, device=None: is_pinned(self),
    "record_stream": lambda self, stream: None,
}
"""By name of the attribute of ``torch.Tensor``."""


def as_tensor(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return what stands in for ``torch.as_tensor``, which keeps what is a tensor already."""

    def stand_in(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        if not isinstance(data, Tensor):
            return original(data, dtype=dtype, device=device)
        given = {"dtype": dtype, "device": device}
        options = {name: value for name, value in given.items() if value is not None}
        return data.to(**options) if options else data

    return stand_in

"""NCCL's rules on a group of gloo: what it refuses, and what makes the host wait."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.pretended_gpu.marks import device_of, flat_tensors
from tests.pretended_gpu.rules import words
from tests.pretended_gpu.state import PretendedGPU

DTYPES = {
    torch.bool,
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
}
OF_TENSORS = words(
    "all_reduce broadcast reduce all_gather all_gather_into_tensor reduce_scatter "
    "reduce_scatter_tensor all_to_all all_to_all_single gather scatter send recv isend irecv"
)
OF_OBJECTS = words(
    "all_gather_object gather_object broadcast_object_list scatter_object_list send_object_list"
)
NOT_REDUCED = (dist.ReduceOp.BAND, dist.ReduceOp.BOR, dist.ReduceOp.BXOR)
GRADIENTS = "gradients of DDP"


@contextlib.contextmanager
def pretended_nccl(gpu: PretendedGPU) -> Iterator[None]:
    """Let a group of gloo, inside the block, refuse what NCCL would, and note its collectives."""
    watch = _Watch(gpu)
    with contextlib.ExitStack() as stack:
        for name in (*OF_TENSORS, *OF_OBJECTS, "barrier"):
            if hasattr(dist, name):
                stand_in = watch.wrapped(name, getattr(dist, name))
                stack.enter_context(mock.patch.object(dist, name, stand_in))
        for name, value in (
            ("get_backend", lambda group=None: "nccl"),
            ("get_backend_config", lambda group=None: "cuda:nccl"),
        ):
            stack.enter_context(mock.patch.object(dist, name, value))
        _watch_ddp(gpu, stack)
        yield


class _Watch:
    """Checks and notes calls of ``torch.distributed``, but not those made inside of others."""

    def __init__(self, gpu: PretendedGPU) -> None:
        self.gpu = gpu
        self.is_inside = False

    def wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return what stands in for a function."""
        signature = inspect.signature(original)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_inside:
                return original(*args, **kwargs)
            self._note(name, tuple(signature.bind(*args, **kwargs).arguments.values()))
            self.is_inside = True
            try:
                return original(*args, **kwargs)
            finally:
                self.is_inside = False

        return call

    def _note(self, name: str, values: tuple[Any, ...]) -> None:
        if name in OF_TENSORS:
            self._check(name, values)
            size = max((x.nbytes for x in flat_tensors(values)), default=0)
            self.gpu.note("collective", name, size=size)
            return
        self.gpu.note("collective", name)
        # a barrier is one of the host and the device, too; an object and its length go to the
        # device, and the lengths and the objects of all ranks come back
        self.gpu.note("wait", name, 1 if name == "barrier" else 3 + dist.get_world_size())

    def _check(self, name: str, values: tuple[Any, ...]) -> None:
        for x in flat_tensors(values):
            if device_of(x) is None:
                self.gpu.fault(f"No backend type associated with device type cpu ({name})")
            elif x.is_sparse or x.dtype not in DTYPES or not x.is_contiguous():
                self.gpu.fault(
                    f"NCCL takes contiguous, dense tensors of {len(DTYPES)} types, found {x.dtype} "
                    f"in strides {x.stride() if not x.is_sparse else 'of none'} ({name})"
                )
        operations = [value for value in values if isinstance(value, dist.ReduceOp.RedOpType)]
        if any(value in NOT_REDUCED for value in operations):
            self.gpu.fault(f"Cannot use ReduceOp.BAND, BOR or BXOR with NCCL ({name})")


def _watch_ddp(gpu: PretendedGPU, stack: contextlib.ExitStack) -> None:
    """Note what DDP sends in C++."""
    kind = DistributedDataParallel
    forward, broadcast = kind.forward, kind._distributed_broadcast_coalesced

    def noted_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and self.require_backward_grad_sync:
            size = sum(p.nbytes for p in self.module.parameters() if p.requires_grad)
            gpu.note("collective", GRADIENTS, size=size)
        return forward(self, *args, **kwargs)

    def noted_broadcast(self: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        name = f"broadcast by DDP of {len(tensors)} tensors"
        gpu.note("collective", name, size=sum(x.nbytes for x in tensors))
        return broadcast(self, tensors, *args, **kwargs)

    stack.enter_context(mock.patch.object(kind, "forward", noted_forward))
    stack.enter_context(
        mock.patch.object(kind, "_distributed_broadcast_coalesced", noted_broadcast)
    )

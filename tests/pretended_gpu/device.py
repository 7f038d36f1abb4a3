"""``with pretended_gpu(project) as gpu:`` is all that a test needs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch

from tests.pretended_gpu import serialization, tensor_methods, torch_cuda
from tests.pretended_gpu.marks import device_of
from tests.pretended_gpu.modes import CallMode, OperationMode
from tests.pretended_gpu.state import Call, PretendedGPU, active


@contextlib.contextmanager
def pretended_gpu(
    project: Path,
    index: int = 0,
    count: int = 1,
    on_fault: Literal["raise", "note"] = "raise",
) -> Iterator[PretendedGPU]:
    """Pretend, inside the block and in this thread, that the machine has CUDA devices.

    Args:
        project: Folder below which files count as the project's.
        index: Which device is this process's.
        count: How many there are.
        on_fault: Whether to raise what CUDA would, or to note it and go on.

    Example:
        >>> with pretended_gpu(Path()) as gpu:
        ...     x = torch.rand(3, device="cuda")
        ...     x.device, float(x.sum()) > 0, gpu.log.count("wait")
        (device(type='cuda', index=0), True, 1)
    """
    gpu = PretendedGPU(project, index, count, on_fault)
    gpu.generator.manual_seed(torch.default_generator.initial_seed())
    serialization.register()
    with contextlib.ExitStack() as stack:
        for place, name, value in _stand_ins(gpu):
            stack.enter_context(mock.patch.object(place, name, value, create=True))
        stack.enter_context(active(gpu))
        stack.enter_context(OperationMode(gpu))
        stack.enter_context(CallMode(gpu))
        yield gpu


def _stand_ins(gpu: PretendedGPU) -> Iterator[tuple[Any, str, Any]]:
    """Yield what is replaced: where, its name, and by what."""
    for place, named in (
        (torch.Tensor, tensor_methods.STAND_INS),
        (torch.cuda, torch_cuda.functions(gpu)),
        (torch.accelerator, torch_cuda.accelerator(gpu)),
    ):
        for name, value in named.items():
            yield place, name, value
    yield torch, "as_tensor", tensor_methods.as_tensor(torch.as_tensor)
    yield torch, "Generator", torch_cuda.Generator
    for place in (torch, torch.amp, torch.amp.autocast_mode):
        yield place, "autocast", torch_cuda.Autocast
    yield torch, "save", serialization.save(torch.save)
    storage = torch.UntypedStorage
    yield storage, "clone", serialization.clone(storage.clone, gpu)
    # otherwise CallMode would not see the calls inside custom backward functions
    yield torch.Tensor, "backward", torch.autograd.backward
    yield torch.autograd, "has_torch_function", lambda *args: False
    yield (
        torch.autograd,
        "_engine_run_backward",
        _backward(torch.autograd._engine_run_backward, gpu),
    )
    # cuDNN's LSTM reads weights that lie in one piece, the CPU's reads them as they are
    yield torch, "_use_cudnn_rnn_flatten_weight", lambda: False
    # optimizers group parameters by what C++ takes for their device
    grouped = _grouped(torch._C._group_tensors_by_device_and_dtype)
    yield torch._C, "_group_tensors_by_device_and_dtype", grouped
    for name in ("_cuda_clearCublasWorkspaces", "_cuda_emptyCache"):
        yield torch._C, name, lambda: None


def _backward(original: Callable[..., Any], gpu: PretendedGPU) -> Callable[..., Any]:
    def run(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        gpu.calls.append(Call("backward", (outputs,)))
        try:
            return original(outputs, *args, **kwargs)
        finally:
            gpu.calls.pop()

    return run


def _grouped(original: Callable[..., Any]) -> Callable[..., Any]:
    def group(lists: Any, *args: Any) -> Any:
        found = {}
        for (device, dtype), (parts, indices) in original(lists, *args).items():
            first = next((x for part in parts for x in part if x is not None), None)
            pretended = None if first is None else device_of(first)
            found[pretended or device, dtype] = (parts, indices)
        return found

    return group

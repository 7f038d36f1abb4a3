"""CUDA's rules, applied to an operation that is about to run on the device."""

from __future__ import annotations

import os

import torch

from tests.pretended_gpu import rules
from tests.pretended_gpu.marks import device_of, flat_tensors, mark
from tests.pretended_gpu.operation import Operation, is_written
from tests.pretended_gpu.state import PretendedGPU


def check(op: Operation, gpu: PretendedGPU) -> None:
    """Refuse what CUDA would, and note waits and sums in no fixed order."""
    _check_kernel(op, gpu)
    _check_devices(op, gpu)
    if waits := _waits(op, gpu):
        gpu.note("wait", op.short_name, waits)
    _check_order(op, gpu)


def check_generator(op: Operation, gpu: PretendedGPU) -> None:
    """Refuse a generator that is elsewhere than the numbers it is to draw."""
    generator = None if gpu.call is None else gpu.call.generator
    if generator is None or not op.is_random:
        return
    wanted, found = "cpu" if op.device is None else "cuda", generator.device.type
    if wanted != found:
        gpu.fault(f"Expected a '{wanted}' device type for generator but found '{found}'")


def note_float64(op: Operation, result: object, gpu: PretendedGPU) -> None:
    """Note an operation that takes or returns doubles; single numbers cost nothing."""
    doubles = [x for x in (*op.tensors, *flat_tensors((result,))) if x.dtype == torch.float64]
    if any(x.ndim for x in doubles):
        gpu.note("float64", op.short_name, size=max(x.numel() for x in doubles))


def _check_kernel(op: Operation, gpu: PretendedGPU) -> None:
    if op.name in rules.NO_KERNEL:
        gpu.fault(f"Could not run '{op.name}' with arguments from the 'CUDA' backend.")
    if op.name in rules.NO_KERNEL_FOR_INTEGERS and op.tensors:
        first = op.tensors[0]
        if not (first.is_floating_point() or first.is_complex()):
            gpu.fault(f'"{op.short_name}_cuda" not implemented for {first.dtype}')


def _check_devices(op: Operation, gpu: PretendedGPU) -> None:
    others = {device for device in op.devices if device not in (None, op.device)}
    if others:
        _refuse_mixture(op, str(others.pop()), gpu)
    if all(op.devices):
        return
    assert op.device is not None
    if gpu.is_internal:
        # C++ made them where it made all else, as DDP its buckets
        for x in flat_tensors(op.args):
            if x.ndim:
                mark(x, op.device, gpu.memory)
        return
    takes_scalars = op.is_pointwise or op.name in rules.TAKES_SCALARS or "_foreach_" in op.name
    for argument, value in op.given():
        for x in flat_tensors((value,)):
            if device_of(x) is not None:
                continue
            if op.name in rules.INDEXING and argument.name == "indices":
                gpu.note("wait", "index on the CPU")
            elif x.ndim or is_written(argument) or not takes_scalars:
                _refuse_mixture(op, "cpu", gpu)
            elif op.name == "aten::where":
                gpu.note("wait", "where with a scalar tensor on the CPU")


def _refuse_mixture(op: Operation, other: str, gpu: PretendedGPU) -> None:
    gpu.fault(
        "Expected all tensors to be on the same device, but found at least two devices, "
        f"{op.device} and {other}! ({op.name})"
    )


def _waits(op: Operation, gpu: PretendedGPU) -> int:
    """Return how often the host waits in an operation."""
    if any(call.name in rules.CHECKS_ON_CPU for call in gpu.calls):
        return 0
    if op.name in rules.INDEXING:
        return _waits_of_indexing(op)
    if op.name in rules.READS_ITS_VALUE:
        value = op.args[-1]
        on_device = isinstance(value, torch.Tensor) and device_of(value) is not None
        return int(on_device and value.ndim == 0)
    if op.name == "aten::repeat_interleave" and op.kwargs.get("output_size") is not None:
        return 0
    if op.name == "aten::bincount" and not op.tensors[0].numel():
        return 0
    return rules.WAITS.get(op.name, 0)


def _waits_of_indexing(op: Operation) -> int:
    indices = [x for x in op.args[1] if x is not None]
    masks = sum(x.dtype in (torch.bool, torch.uint8) for x in indices)
    if "put" not in op.name:
        return masks
    value = op.args[2]
    if device_of(value) is not None:
        return masks
    if masks and value.numel() == 1:
        return 0  # becomes masked_fill
    return masks + int(value.ndim == 0)


def _check_order(op: Operation, gpu: PretendedGPU) -> None:
    """Note a sum in no fixed order, or refuse it where a fixed one is asked for."""
    demanded = torch.are_deterministic_algorithms_enabled()
    cudnn = demanded or torch.backends.cudnn.deterministic
    if demanded and op.name in rules.CUBLAS and not os.environ.get("CUBLAS_WORKSPACE_CONFIG"):
        gpu.fault("CuBLAS is not deterministic unless CUBLAS_WORKSPACE_CONFIG=:4096:8 is set")
    if op.name == "aten::convolution_backward" and not cudnn:
        gpu.note("unordered", "convolution_backward, if cuDNN chooses so")
    elif op.name in rules.ORDERED_ON_DEMAND and not demanded:
        words = {value for value in (*op.args, *op.kwargs.values()) if isinstance(value, str)}
        if any(x.is_floating_point() for x in op.tensors) and not {"amin", "amax"} & words:
            gpu.note("unordered", op.short_name)
    elif _is_never_ordered(op):
        gpu.note("unordered", op.short_name)
        if demanded and not torch.is_deterministic_algorithms_warn_only_enabled():
            gpu.fault(f"{op.short_name}_cuda does not have a deterministic implementation")


def _is_never_ordered(op: Operation) -> bool:
    floats = any(x.is_floating_point() for x in op.tensors)
    if op.name == "aten::bincount":
        return len(op.tensors) > 1 and floats
    if op.name in rules.MEDIANS:
        return len(op.args) > 1 and torch.are_deterministic_algorithms_enabled()
    if op.name.startswith("aten::scatter_reduce") and "prod" in op.args:
        return True
    return op.name in rules.NEVER_ORDERED and floats

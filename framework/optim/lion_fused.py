"""Lion-K in one pass over memory, by a C++ kernel that equals the torch operations bit for bit."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from framework.optim.blocks import is_dense
from framework.optim.momentum_optimizer import state_dtype
from framework.utilities.compiled_library import compile_library

KINDS = ("sign", "threshold", "huber", "square")
"""Functions K that the kernel knows, in its own order."""

_NAMES = {
    torch.float32: "lion_float32",
    torch.float64: "lion_float64",
    torch.bfloat16: "lion_bfloat16",
}
# a thread costs about what this many entries do
_ENTRIES_PER_THREAD = 1 << 15


def is_fusible(weight: Tensor, gradient: Tensor, momentum: Tensor) -> bool:
    """Return whether the kernel takes a weight: dense, on a CPU, the others laid out alike.

    A weight that was cast, moved or resized between steps leaves its momentum behind, whose memory
    the kernel would read as what it is not.
    """
    if weight.dtype not in _NAMES:
        return False
    if (gradient.dtype, momentum.dtype) != (weight.dtype, state_dtype(weight)):
        return False
    layout = weight.shape, weight.stride()
    return all(
        is_dense(x) and (x.shape, x.stride()) == layout for x in (weight, gradient, momentum)
    )


def fused_step(weight: Tensor, gradient: Tensor, momentum: Tensor, group: dict[str, Any]) -> None:
    """Move a weight and its momentum by one step of LionK.

    Args:
        weight: Weight for which ``is_fusible`` holds; it is changed.
        gradient: Gradient of the weight; it is left alone.
        momentum: Momentum, of the weight's layout, in float32 where the weight is in bfloat16; it
            is changed.
        group: Options of the group, with a number as ``lr``.
    """
    (beta1, beta2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
    numbers = (ctypes.c_double * 6)(
        1 - beta1,
        1 - beta2,
        1 - lr * decay,
        -lr,
        group["kappa_kwargs"].get("e", 0.0),
        -1.0 if group["maximize"] else 1.0,
    )
    size = weight.numel()
    threads = max(1, min(torch.get_num_threads(), size // _ENTRIES_PER_THREAD))
    _kernel(_NAMES[weight.dtype])(
        KINDS.index(group["kappa"]),
        *(ctypes.c_void_p(x.data_ptr()) for x in (weight, gradient, momentum)),
        ctypes.c_int64(size),
        threads,
        numbers,
    )


@cache
def _kernel(name: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(_library(), name)
    return function


@cache
def _library() -> ctypes.CDLL:
    """Compile the kernel so that it rounds as torch's own kernels of this processor do."""
    start, end = torch.rand(2, 4096, generator=torch.Generator().manual_seed(0))
    twice = start + 0.1 * (end - start)
    fused = not torch.equal(torch.lerp(start, end, 0.1), twice)
    return compile_library("framework.optim", "lion_kernel.cpp", [f"FUSED={int(fused)}"])

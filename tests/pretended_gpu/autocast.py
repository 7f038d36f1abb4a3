"""CUDA's lists of operations for autocast, on the kernels of the CPU.

Autocast of the CPU keeps other operations in float32 than that of CUDA does: without these lists an
``exp`` or a ``sum`` would stay in half precision, and what CUDA refuses would pass. They are those
of ``aten/src/ATen/autocast_mode.h``, without what the CPU's lists have in common with them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from tests.pretended_gpu.rules import words
from tests.pretended_gpu.state import current

HALF = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, *HALF)
TO_FLOAT32 = words(
    "acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus "
    "layer_norm native_layer_norm group_norm frobenius_norm nuclear_norm cosine_similarity "
    "poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div "
    "l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss multilabel_margin_loss "
    "soft_margin_loss triplet_margin_loss multi_margin_loss binary_cross_entropy_with_logits dist "
    "pdist cdist renorm logsumexp upsample_nearest2d upsample_bilinear2d _upsample_bilinear2d_aa "
    "upsample_bicubic2d prod softmax log_softmax cumprod cumsum linalg_vector_norm "
    "linalg_matrix_norm sum norm"
)
TO_WIDEST = words(
    "addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add"
)
TO_HALF = words("einsum mv addmv addr prelu chain_matmul linalg_multi_dot")
REFUSED = ["binary_cross_entropy"]

Treatment = Literal["float32", "widest", "half", "refused"]
_TREATMENTS: dict[str, Treatment] = {
    **dict.fromkeys(TO_FLOAT32, "float32"),
    **dict.fromkeys(TO_WIDEST, "widest"),
    **dict.fromkeys(TO_HALF, "half"),
    **dict.fromkeys(REFUSED, "refused"),
}


@contextlib.contextmanager
def cuda_autocast() -> Iterator[None]:
    """Let autocast, inside the block of a pretended device, follow CUDA's lists."""
    library = _registered()
    try:
        yield
    finally:
        library._destroy()  # what stays registered hides the CPU's own lists


def _registered() -> torch.library.Library:
    """Return the library of torch that holds the kernels, until it is destroyed."""
    library = torch.library.Library("aten", "IMPL", "AutocastCPU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they replace the CPU's own
        for name, treatment in _TREATMENTS.items():
            packet = getattr(torch.ops.aten, name)
            for overload in packet.overloads():
                if "out" not in overload:
                    op = getattr(packet, overload)
                    with contextlib.suppress(RuntimeError):  # made of others
                        library.impl(op, _kernel(op, treatment))
    return library


def _kernel(op: Any, treatment: Treatment) -> Callable[..., Any]:
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            if treatment == "refused":
                current().fault(
                    "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to "
                    "autocast."
                )
            elif treatment == "half":
                args = _cast(args, torch.get_autocast_dtype("cpu"), FLOATS)
            elif treatment == "float32" or _has_float32(args):
                args = _cast(args, torch.float32, HALF)
            return op(*args, **kwargs)

    return kernel


def _has_float32(args: tuple) -> bool:
    return any(isinstance(x, Tensor) and x.dtype == torch.float32 for x in args)


def _cast(value: Any, dtype: torch.dtype, only: tuple[torch.dtype, ...]) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in only else value
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(part, dtype, only) for part in value)
    return value

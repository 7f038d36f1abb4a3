"""CUDA's rules as tables, of torch 2.11 to 2.15; names are those of ATen.

A new rule is a name in a table. What depends on the arguments is in ``checks.py``.
"""

from __future__ import annotations


def words(text: str) -> list[str]:
    """Return the names in a text."""
    return text.split()


def _ops(names: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in words(names))


WAITS: dict[str, int] = {
    **dict.fromkeys(
        _ops(
            "_local_scalar_dense nonzero nonzero_numpy masked_select masked_scatter_backward equal "
            "_unique _unique2 unique_dim unique_consecutive unique_dim_consecutive _linalg_eigh "
            "_linalg_svd _linalg_check_errors linalg_eig linalg_lstsq _ctc_loss"
        ),
        1,
    ),
    # a minimum and a maximum; a smallest count and a sum
    **dict.fromkeys(_ops("bincount repeat_interleave"), 2),
}
"""How often the host waits in an operation on the device, whatever its arguments."""

READS_ITS_VALUE = _ops("masked_fill masked_fill_ index_fill index_fill_")
"""Waits for a value that is a tensor, by an ``item()`` that no mode sees."""

INDEXING = _ops("index _unsafe_index index_put index_put_ _index_put_impl_ _unsafe_index_put")
"""Takes the positions of a mask, which waits; indices on the CPU are copied, which waits, too."""

NO_KERNEL = _ops("histogram histogramdd from_file _pad_packed_sequence")

NO_KERNEL_FOR_INTEGERS = _ops(
    "mm addmm bmm baddbmm mv addmv dot vdot convolution _convolution _upsample_bilinear2d_aa"
)

CUBLAS = _ops("mm addmm bmm baddbmm mv addmv dot vdot")
"""Raises under deterministic algorithms, unless CUBLAS_WORKSPACE_CONFIG is set."""

ORDERED_ON_DEMAND = _ops(
    "index_add index_add_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ cumsum "
    "embedding_dense_backward _embedding_bag_dense_backward"
)
"""Adds floats in no fixed order, unless deterministic algorithms are asked for."""

NEVER_ORDERED = _ops(
    "_adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward adaptive_max_pool2d_backward "
    "adaptive_max_pool3d_backward avg_pool3d_backward fractional_max_pool2d_backward "
    "fractional_max_pool3d_backward max_unpool2d max_unpool3d upsample_linear1d_backward "
    "upsample_bilinear2d_backward upsample_bicubic2d_backward upsample_trilinear3d_backward "
    "_upsample_bilinear2d_aa_backward _upsample_bicubic2d_aa_backward grid_sampler_2d_backward "
    "grid_sampler_3d_backward reflection_pad1d_backward reflection_pad2d_backward "
    "reflection_pad3d_backward replication_pad1d_backward replication_pad2d_backward "
    "replication_pad3d_backward nll_loss2d_forward nll_loss2d_backward _ctc_loss_backward put_ put "
    "histc index_reduce index_reduce_"
)
"""Adds in no fixed order, and raises under deterministic algorithms."""

MEDIANS = _ops("median nanmedian")
"""Raises under deterministic algorithms where the indices are asked for, by a dimension."""

TAKES_SCALARS = _ops(
    "where masked_fill masked_fill_ fill fill_ index_fill index_fill_ lerp lerp_ addcmul addcmul_ "
    "addcdiv addcdiv_ clamp clamp_ index_put index_put_ _index_put_impl_"
)
"""May take a single number on the CPU beside tensors of the device, as pointwise operations do."""

NO_LAUNCH = _ops(
    "empty empty_like empty_strided new_empty new_empty_strided detach alias set_ resize_ "
    "_unsafe_view _reshape_alias lift_fresh _local_scalar_dense is_same_size record_stream"
)
"""Allocates or renames."""

COPIES = _ops("copy_ _to_copy copy _foreach_copy_ set_")

CHECKS_ON_CPU = frozenset({"one_hot", "quantile", "nanquantile"})
"""Calls that look at values on the CPU alone, to report what a kernel asserts on a device."""

FACTORIES = frozenset(
    words(
        "zeros ones full empty empty_strided arange range linspace logspace eye rand randn randint "
        "randperm tensor as_tensor asarray from_numpy frombuffer scalar_tensor tril_indices "
        "triu_indices from_file hann_window"
    )
)
"""Calls that make tensors on the CPU unless told otherwise, whatever is among the arguments."""

FROM_PYTHON = frozenset({"tensor", "as_tensor", "asarray", "new_tensor"})
"""Calls that make a tensor of Python's numbers on the CPU first, and copy it."""

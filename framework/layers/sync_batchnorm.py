"""Batch normalization over the global batch, on GPUs and on the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from framework.distributed.collectives import gather_with_grad, world_size


class SyncBatchNorm(_BatchNorm):
    """Batch normalization whose statistics are those of the global batch.

    Two ranks with slices of a batch, even or not, one of them even empty, compute what
    ``torch.nn.BatchNorm1d``, ``2d`` or ``3d`` computes of the whole batch on one process, and have
    its gradients after DDP's average. With one process it is that layer.

    All ranks must call it, with gradients for the input on all or none, whenever batch statistics
    are used: in training mode, and without running statistics in evaluation mode too. A global
    batch with one value per channel, which torch refuses, gives zeros before scale and shift.
    Unlike ``torch.nn.SyncBatchNorm`` it runs on the CPU, takes empty slices and may be
    differentiated twice; it needs about twice the memory for activations.

    Shapes: (B_r, C, *) to the same; half precision is normalized in float32.

    Paper: Ioffe and Szegedy, arXiv:1502.03167.

    Args:
        num_features: Number of channels C.
        eps: Number added to the variance.
        momentum: Momentum of the running statistics; None averages over all batches.
        affine: Whether to learn scale and shift.
        track_running_stats: Whether to keep running statistics for evaluation.

    Raises:
        ValueError: an input of fewer than two dimensions.

    Example:
        >>> import torch
        >>> from framework.layers import SyncBatchNorm
        >>> SyncBatchNorm(3)(torch.randn(8, 3, 5, 5)).shape
        torch.Size([8, 3, 5, 5])
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  (torch's name)
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm takes (B, C, *), got {input.dim()} dimensions.")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Return the normalized input."""
        uses_batch = self.training or self.running_mean is None
        if world_size() == 1 or not uses_batch:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count, mean, variance = _global_moments(x)
        if self.training and self.track_running_stats:
            self._track(count, mean, variance)
        column = (1, -1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(variance + self.eps).to(x.dtype)
        if self.weight is not None:
            scale = scale * self.weight
        # subtracting first keeps the digits of a small spread around a large mean
        y = (x - mean.to(x.dtype).view(column)) * scale.view(column)
        if self.bias is not None:
            y = y + self.bias.view(column)
        return self._finish(y.to(input.dtype))

    def _finish(self, normalized: Tensor) -> Tensor:
        return normalized

    @torch.no_grad()
    def _track(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        unbiased = variance * count / (count - 1).clamp(min=1)
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.mul_(1 - momentum).add_(momentum * new.to(running.dtype))


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of values per channel, their mean and variance over all ranks, (C,) each.

    The ranks' moments are joined in float64 by the parallel algorithm of Chan et al., which does
    not lose digits as a sum of squares would.
    """
    dims = [0, *range(2, x.ndim)]
    count = x.numel() // x.shape[1]
    if count:
        own_variance, own_mean = torch.var_mean(x, dims, correction=0)
    else:
        # zeros with a gradient path: this rank takes part in the backward pass too
        own_mean = own_variance = x.sum(dims)
    counts = torch.full_like(own_mean, count, dtype=torch.float64)
    own = torch.stack([counts, own_mean.double(), own_variance.double()])
    counts, means, variances = gather_with_grad(own[None], [1] * world_size()).unbind(1)
    total = counts.sum(0)
    share = counts / total.clamp(min=1)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return total, mean, variance


def convert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Turn every batch normalization in ``module`` into a ``SyncBatchNorm``, in place.

    Each layer stays the same object, with its parameters, buffers, hooks and keys, and remains an
    instance of its class. Subclasses that do not change ``forward`` are converted too, and so are
    timm's, which add dropout and an activation.

    Args:
        module: Module of any kind, also a batch normalization itself.

    Returns:
        ``module``.

    Raises:
        TypeError: a layer whose own ``forward`` is unknown, or that is not initialized yet;
            nothing has been converted.

    Example:
        >>> import torch
        >>> from framework.layers import SyncBatchNorm, convert_sync_batchnorm
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        >>> isinstance(convert_sync_batchnorm(network)[1], SyncBatchNorm)
        True
    """
    kinds = {
        name: (layer, _synchronized(type(layer), name))
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, SyncBatchNorm)
    }
    for layer, kind in kinds.values():
        layer.__class__ = kind
    return module


def _synchronized(kind: Any, name: str) -> type[SyncBatchNorm]:
    if issubclass(kind, LazyModuleMixin):
        raise TypeError(
            f"The batch normalization {name!r} is a {kind.__name__} without a size: run one batch "
            "through the network before it is synchronized."
        )
    owner = next(c for c in kind.__mro__ if "forward" in vars(c))
    if owner in (_BatchNorm, nn.SyncBatchNorm):
        return _subclass(kind, None)
    if owner.__name__ == "BatchNormAct2d" and owner.__module__.startswith("timm."):
        return _subclass(kind, _drop_and_activate)
    raise TypeError(
        f"The batch normalization {name!r} is a {kind.__name__} with a `forward` of its own, which "
        "cannot be synchronized: set sync_batchnorm to false, or use another layer."
    )


@cache
def _subclass(kind: Any, finish: Any) -> type[SyncBatchNorm]:
    body = {"__module__": __name__, "_check_input_dim": kind._check_input_dim}
    if finish is not None:
        body["_finish"] = finish
    return type(f"Sync{kind.__name__.removeprefix('Sync')}", (SyncBatchNorm, kind), body)


def _drop_and_activate(self: Any, normalized: Tensor) -> Tensor:
    return self.act(self.drop(normalized))

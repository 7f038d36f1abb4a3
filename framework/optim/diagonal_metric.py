"""A diagonal metric of parameters, in which lengths of steps and gradients are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_metric(params: Sequence[Tensor], metric: Sequence[Tensor] | None) -> None:
    """Raise ``ValueError`` unless a metric has a positive entry for each of the parameters.

    Args:
        params: Parameters.
        metric: Diagonal, a tensor for each parameter; None for 1.
    """
    if metric is None:
        return
    if not all(isinstance(b, Tensor) for b in metric):
        raise ValueError("The metric must be a list of tensors, one for each parameter of a group.")
    shapes, found = ([tuple(x.shape) for x in tensors] for tensors in (params, metric))
    if found != shapes:
        raise ValueError(
            "The metric must hold a tensor for each parameter of a group, here of the shapes "
            f"{shapes}, got {found}."
        )
    if not all(bool((b > 0).all()) for b in metric):
        raise ValueError("Every entry of the metric must be positive.")


def inverse_root(groups: Sequence[dict[str, Any]], dtype: torch.dtype) -> Tensor | None:
    """Return the root of the inverse metric of all trained parameters, shape (d,); None for 1.

    Args:
        groups: Groups of an optimizer, each with its ``metric``.
        dtype: Dtype of the result.
    """
    if all(group["metric"] is None for group in groups):
        return None
    parts = []
    for group in groups:
        own = group["metric"] or [None] * len(group["params"])
        for p, b in zip(group["params"], own, strict=True):
            if p.requires_grad:
                entries = torch.ones_like(p) if b is None else b
                parts.append(entries.detach().reshape(-1).to(p.device, dtype).rsqrt())
    return torch.cat(parts)

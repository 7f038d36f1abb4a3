"""The divergence between what a network says now and what it said before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.utilities.precision import at_least_float32


def check_logits(shape: Sequence[int]) -> None:
    """Refuse predictions that are no distribution over classes.

    Args:
        shape: of one row of the predictions, (..., C).

    Raises:
        ValueError: there is no axis of classes, or only one class.
    """
    if len(shape) < 1 or shape[-1] < 2:
        raise ValueError(
            "The past of a run is compared as logits of at least two classes, but a row of the "
            f"predictions has the shape {tuple(shape)}."
        )


def trajectory_divergence(logits: Tensor, past: Tensor, temperature: float) -> Tensor:
    """Return ``temperature**2 * KL(softmax(past / temperature) || softmax(logits / temperature))``.

    The factor keeps gradients of one size over temperatures; it stands in the authors' code, not in
    the paper's formula. For large temperatures the value approaches half the variance of
    ``logits - past`` over the classes.

    Source: Du et al., Sharpness-Aware Training for Free, NeurIPS 2022, arXiv 2205.14083.

    Args:
        logits: (B, ..., C), with gradient; half precision is computed in float32.
        past: of the same shape; constant.
        temperature: positive.

    Returns:
        (B,), summed over the classes and over any axes in between.

    Raises:
        ValueError: the shapes differ, or there are fewer than two classes.

    Example:
        >>> now = torch.tensor([[2.0, 0.5, -1.0]])
        >>> before = torch.tensor([[1.0, 1.0, 0.0]])
        >>> round(float(trajectory_divergence(now, before, 5.0)), 6)
        0.367967
    """
    if logits.shape != past.shape:
        raise ValueError(
            f"The predictions changed their shape from {tuple(past.shape)} to "
            f"{tuple(logits.shape)}."
        )
    check_logits(logits.shape[1:])
    logits = at_least_float32(logits)
    with torch.autocast(device_type=logits.device.type, enabled=False):
        log_now = F.log_softmax(logits / temperature, dim=-1)
        log_past = F.log_softmax(past.detach().to(logits.dtype) / temperature, dim=-1)
        divergence = F.kl_div(log_now, log_past, reduction="none", log_target=True)
        return temperature**2 * divergence.flatten(1).sum(1)

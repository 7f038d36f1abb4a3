"""Losses are computed in float32 at least, whatever the precision around them."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(value: Tensor) -> Tensor:
    """Return ``value``, in float32 if it is in half precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value

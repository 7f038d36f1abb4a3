"""Copies between the CPU and a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on a device, without waiting for what a GPU has yet to do."""
    if device.type == "cuda":
        # memory that is not pinned would be waited for
        values = values.pin_memory()
    return values.to(device, non_blocking=True)

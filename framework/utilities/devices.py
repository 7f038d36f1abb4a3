"""Copies between the CPU and a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU is not waited for where it gets a copy of the CPU's."""
    if values.device.type == "cpu" and device.type == "cuda":
        # memory that is not pinned would be waited for
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)

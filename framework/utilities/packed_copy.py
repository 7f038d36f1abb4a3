"""Many small tensors in one copy between the host and a device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def copy_packed(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Return tensors on another device, detached, by a single copy of all their bytes.

    To a GPU the host does not wait; from it the host waits once rather than once per tensor. What
    is there already stays as it is.

    Args:
        tensors: Tensors of one device, of any shapes and types.
        device: Device of the result.

    Example:
        >>> boxes = {"corners": torch.zeros(5, 8), "label": torch.arange(5), "hard": torch.ones(5)}
        >>> {name: value.device.type for name, value in copy_packed(boxes, "meta").items()}
        {'corners': 'meta', 'label': 'meta', 'hard': 'meta'}
    """
    device = torch.device(device)
    if all(value.device == device for value in tensors.values()):
        return dict(tensors)
    # the widest first, so that each starts at a multiple of its own width
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    packed = torch.cat(
        [tensors[name].detach().contiguous().flatten().view(torch.uint8) for name in names]
    )
    to_gpu = device.type == "cuda"
    if to_gpu and packed.device.type == "cpu":
        # from memory that is not pinned, a GPU's copy waits for all that runs before it
        packed = packed.pin_memory()
    packed = packed.to(device, non_blocking=to_gpu)
    parts = packed.split([tensors[name].nbytes for name in names])
    moved = {
        name: part.view(tensors[name].dtype).view(tensors[name].shape)
        for name, part in zip(names, parts, strict=True)
    }
    return {name: moved[name] for name in tensors}

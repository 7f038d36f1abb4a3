"""Many small tensors in one copy between the host and a device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from framework.utilities.devices import to_device


def copy_packed(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Return tensors on another device, detached, by a single copy of all their bytes.

    To a GPU the host does not wait; from it the host waits once rather than once per tensor. What
    is there already stays as it is.

    Args:
        tensors: Tensors of any shapes and types; those of several devices are copied one by one,
            and not detached.
        device: Device of the result.

    Example:
        >>> boxes = {"corners": torch.zeros(5, 8), "label": torch.arange(5), "hard": torch.ones(5)}
        >>> {name: value.device.type for name, value in copy_packed(boxes, "meta").items()}
        {'corners': 'meta', 'label': 'meta', 'hard': 'meta'}
    """
    device = torch.device(device)
    present = {value.device for value in tensors.values()}
    if len(present) != 1 or present == {device}:
        return {name: value.to(device) for name, value in tensors.items()}
    return unpack(to_device(pack(tensors), device), tensors)


def pack(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the bytes of tensors of one device one after the other."""
    return torch.cat(
        [tensors[n].detach().contiguous().flatten().view(torch.uint8) for n in _order(tensors)]
    )


def unpack(packed: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of packed bytes.

    Args:
        packed: What ``pack`` returned, on any device.
        like: Tensors of these shapes and types.
    """
    names = _order(like)
    parts = packed.split([like[name].nbytes for name in names])
    found = {
        name: part.view(like[name].dtype).view(like[name].shape)
        for name, part in zip(names, parts, strict=True)
    }
    return {name: found[name] for name in like}


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    # the widest first, so that each starts at a multiple of its own width
    return sorted(tensors, key=lambda name: -tensors[name].element_size())

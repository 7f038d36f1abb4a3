"""Tensors of a GPU on the CPU, by one copy."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def on_the_cpu(values: Iterable[Tensor]) -> list[Tensor]:
    """Return the tensors, without gradient, on the CPU; those of a GPU come in one copy.

    A copy to the CPU is waited for, and each of them costs as much as all together.

    Args:
        values: Tensors of any shapes and types.

    Example:
        >>> import torch
        >>> on_the_cpu([torch.tensor([1.5]), torch.tensor([True])])
        [tensor([1.5000]), tensor([True])]
    """
    tensors = [value.detach() for value in values]
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1 or devices == {torch.device("cpu")}:
        return [tensor.cpu() for tensor in tensors]
    # reshape alone leaves gaps in a slice with a step
    packed = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    parts = torch.cat(packed).cpu().split([len(part) for part in packed])
    # a clone starts where numbers of any size may start
    return [
        part.clone().view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(parts, tensors, strict=True)
    ]

"""What several ranks detected and saw, brought together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from framework.distributed.collectives import gather


def gather_detections(
    found: Sequence[Mapping[str, Tensor]], empty: Mapping[str, Tensor], device: torch.device
) -> list[dict[str, Tensor]]:
    """Return what all ranks found on their images, rank by rank.

    Args:
        found: Fields of the detections of each image of this rank, (n, ...) each.
        empty: The same fields of an image without any, for their shapes and types; whole numbers
            must be exact in float32.
        device: Device of the collectives.

    Returns:
        The fields of each image, on the CPU.

    Example:
        >>> import torch
        >>> one = {"boxes": torch.ones(2, 4), "labels": torch.tensor([3, 1])}
        >>> empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        >>> gather_detections([one], empty, torch.device("cpu"))[0]["labels"]
        tensor([3, 1])
    """
    counts = torch.tensor([len(next(iter(one.values()))) for one in found], dtype=torch.int64)
    rows = torch.cat([_rows(one, empty) for one in (empty, *found)])
    counts, rows = gather(counts.to(device)).cpu(), gather(rows.to(device)).cpu()
    return [_fields(part, empty) for part in rows.split(counts.tolist())]


def gather_pictures(images: Mapping[int, Tensor], device: torch.device) -> dict[int, Tensor]:
    """Return the images (C, H, W) of all ranks by their numbers, those of one size, on the CPU.

    Args:
        images: This rank's images, by number.
        device: Device of the collectives.
    """
    numbers = sorted(images)
    shape = (3, 0, 0) if not numbers else images[numbers[0]].shape
    sizes = gather(torch.tensor([shape], device=device)).amax(0).tolist()
    stacked = torch.zeros(0, *sizes)
    if numbers:
        stacked = torch.stack([images[number] for number in numbers])
    index = gather(torch.tensor(numbers, dtype=torch.int64, device=device)).tolist()
    gathered = gather(stacked.to(device)).cpu()
    return dict(zip(index, gathered, strict=True))


def _rows(one: Mapping[str, Tensor], empty: Mapping[str, Tensor]) -> Tensor:
    columns = [one[name].float().reshape(len(one[name]), _width(empty[name])) for name in empty]
    return torch.cat(columns, dim=1)


def _fields(rows: Tensor, empty: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = rows.split([_width(value) for value in empty.values()], dim=1)
    return {
        name: part.reshape(len(rows), *like.shape[1:]).to(like.dtype)
        for (name, like), part in zip(empty.items(), parts, strict=True)
    }


def _width(value: Tensor) -> int:
    return value.shape[1:].numel()

"""Random padded batches of people, and the worked example of the assignment."""

import torch
from torch import Tensor

STRIDES = (8, 16, 32)
ANCHORS = torch.tensor(
    [
        [[19.0, 27], [44, 40], [38, 94]],
        [[96, 68], [86, 152], [180, 137]],
        [[140, 301], [303, 264], [238, 542]],
    ]
)
WORKED = torch.tensor([[[96.0, 68], [86, 152], [180, 137]]])
"""Anchors of the worked example, whose only level has stride 16."""


def people(
    bodies: Tensor, parts: Tensor, num_people: Tensor | None = None, **fields: Tensor
) -> dict[str, Tensor]:
    """Return a batch of people who show all parts, but for the fields that are given."""
    images, most, slots = parts.shape[:3]
    return {
        "bodies": bodies,
        "parts": parts,
        "visible": torch.ones(images, most, slots, dtype=torch.bool),
        "part_ignored": torch.zeros(images, most, slots, dtype=torch.bool),
        "ignored": torch.zeros(images, most, dtype=torch.bool),
        "num_people": torch.full((images,), most) if num_people is None else num_people,
        **fields,
    }


def worked_example() -> dict[str, Tensor]:
    body = torch.tensor([[[255, 200, 345, 360]]], dtype=torch.float64)
    head = torch.tensor([[[[290, 197, 320, 233]]]], dtype=torch.float64)
    return people(body, head)


def crowd(
    seed: int, images: int = 3, most: int = 6, slots: int = 2, size: int = 256
) -> dict[str, Tensor]:
    """Return people of all sizes, some beyond the image, on whole, half and other pixels."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int, smallest: float, largest: float) -> Tensor:
        u = torch.rand(*shape, 4, generator=generator, dtype=torch.float64)
        center = u[..., :2] * size * 1.1 - 0.05 * size
        half = (smallest + u[..., 2:] * (largest - smallest)) / 2
        step = 2.0 ** torch.randint(-3, 4, (*shape, 1), generator=generator)
        return ((torch.cat([center - half, center + half], -1) / step).round() * step).double()

    def often(share: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) < share

    return people(
        bodies=boxes(images, most, smallest=1, largest=size * 0.8),
        parts=boxes(images, most, slots, smallest=0, largest=size * 0.2),
        num_people=torch.randint(0, most + 1, (images,), generator=generator),
        visible=often(0.7, images, most, slots),
        part_ignored=often(0.2, images, most, slots),
        ignored=often(0.2, images, most),
    )

"""Images of people with what a detector found on them, for tests of metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CLASSES = ("body", "head", "hand")
SLOTS = (1, 2, 2)
WIDTH, HEIGHT = 400, 300

People = dict[str, Tensor]
Images = list[tuple[People, People, int]]
"""Detections, truth and number of each image."""


def truth_of(bodies: Any, parts: Any = None, **fields: Any) -> People:
    """Return the truth of an image; without ``parts`` a body has one, its upper sixth."""
    bodies = torch.as_tensor(bodies, dtype=torch.float32).view(-1, 4)
    if parts is None:
        parts = bodies[:, None].clone()
        parts[..., 3] = parts[..., 1] + (parts[..., 3] - parts[..., 1]) / 6
    parts = torch.as_tensor(parts, dtype=torch.float32)
    count, slots = parts.shape[:2]
    default = {
        "visible": torch.ones(count, slots, dtype=torch.bool),
        "part_ignored": torch.zeros(count, slots, dtype=torch.bool),
        "visible_ratio": torch.ones(count),
        "ignored": torch.zeros(count, dtype=torch.bool),
        "image_size": torch.tensor([float(WIDTH), float(HEIGHT)]),
    }
    given = {name: torch.as_tensor(value) for name, value in fields.items()}
    return {"bodies": bodies, "parts": parts, **default, **given}


def as_found(truth: People, slots: tuple[int, ...]) -> People:
    """Return the annotated bodies and parts as detections, each of score 1."""
    count = len(truth["bodies"])
    owner, slot = (truth["visible"] | truth["part_ignored"]).nonzero().unbind(1)
    boxes = torch.cat([truth["bodies"], truth["parts"][owner, slot]])
    return {
        "boxes": boxes,
        "scores": torch.ones(len(boxes)),
        "labels": torch.cat([torch.zeros(count, dtype=torch.int64), torch.tensor(slots)[slot]]),
        "body": torch.cat([torch.full((count,), -1), owner]),
    }


def crowd(seed: int, people: int = 9, spread: float = 1.0) -> People:
    """Return people with one head and two hands each, in whole pixels.

    Some are ignored or leave the image, some parts are absent or ignored.

    Args:
        seed: Seed of all that is drawn.
        people: Number of people.
        spread: Width of the strip that they stand in, as a share of the image.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    height = (draw(people) * 120 + 24).round()
    width = (height * (0.3 + 0.2 * draw(people))).round()
    x, y = (draw(people) * spread * WIDTH - 20).round(), (draw(people) * 240 - 20).round()
    bodies = torch.stack([x, y, x + width, y + height], 1)
    # a head above, and hands beside the middle
    places = torch.tensor([[0.3, 0.0, 0.4, 0.2], [0.0, 0.5, 0.3, 0.2], [0.7, 0.5, 0.3, 0.2]])
    size = torch.stack([width, height], 1)[:, None]
    low = (bodies[:, None, :2] + places[:, :2] * size).round()
    parts = torch.cat([low, low + (places[:, 2:] * size).round().clamp(min=1)], 2)
    annotated = draw(people, 3) < 0.8
    hidden = annotated & (draw(people, 3) < 0.15)
    return truth_of(
        bodies,
        parts * annotated[..., None],
        visible=annotated & ~hidden,
        part_ignored=hidden,
        visible_ratio=(draw(people) * 20).round() / 20,
        ignored=draw(people) < 0.2,
    )


def noisy(truth: People, seed: int, tied: bool) -> People:
    """Return detections with errors of whole pixels, some twice, some missing, some of nothing.

    Args:
        truth: Truth of the image.
        seed: Seed of the errors.
        tied: Whether scores are tenths, of which many are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    perfect = as_found(truth, SLOTS)
    is_body = perfect["labels"] == 0
    bodies, parts = is_body.nonzero()[:, 0], (~is_body).nonzero()[:, 0]

    def chosen(rows: Tensor) -> Tensor:
        times = torch.tensor([1, 1, 0, 2])[torch.randint(4, (len(rows),), generator=generator)]
        return rows.repeat_interleave(times)

    rows = torch.cat([chosen(bodies), chosen(parts)])
    boxes = perfect["boxes"][rows]
    error = torch.randint(-4, 5, boxes.shape, generator=generator)
    boxes = boxes + error * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2) / 40
    boxes = boxes.round()
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = perfect["labels"][rows]
    if tied:
        scores = torch.randint(1, 10, (len(rows),), generator=generator) / 10
    else:
        scores = (torch.randperm(len(rows), generator=generator) + 1) / (len(rows) + 1)
    # the first detection of the true body, another body at random, or none
    body = torch.full((len(rows),), -1)
    found_bodies = (labels == 0).nonzero()[:, 0]
    for row in (labels > 0).nonzero()[:, 0].tolist():
        of_truth = (rows == perfect["body"][rows[row]]).nonzero()[:, 0]
        luck = float(torch.rand((), generator=generator))
        if luck < 0.8 and len(of_truth):
            body[row] = of_truth[0]
        elif luck < 0.9 and len(found_bodies):
            pick = torch.randint(len(found_bodies), (), generator=generator)
            body[row] = found_bodies[pick]
    return {"boxes": boxes, "scores": scores, "labels": labels, "body": body}


def images(seed: int, tied: bool = True) -> Images:
    """Return six images with numbers out of order.

    On the fifth nothing is found, on the last there is nobody.

    Args:
        seed: Seed of all that is drawn.
        tied: Whether scores may be equal.
    """
    result: Images = []
    for k in range(6):
        truth = crowd(100 * seed + k, people=0 if k == 5 else 9, spread=0.6)
        found = noisy(crowd(7, 2) if k == 5 else truth, 100 * seed + k, tied)
        if k == 4:
            found = {name: value[:0] for name, value in found.items()}
        result.append((found, truth, 37 * (k + 3) % 101))
    return result


def updated(metric: Any, batch: Images) -> Any:
    """Return a metric that has seen some images, one by one."""
    for found, truth, number in batch:
        metric.update([found], [truth], torch.tensor([number]))
    return metric

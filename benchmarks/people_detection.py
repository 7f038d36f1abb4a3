"""What the detection of people with their parts costs: sections of ``benchmarks.detection``.

Association: 200 bodies and 200 heads of a crowd, vectorized, against loops in Python: over parts
and bodies, and over parts with NumPy for all bodies at once. Goal: at most 0.03 of the former; the
pairs are the same.

Anchors: assignment of 16 images of 640 pixels with 40 people and their heads to anchors on four
levels, against a loop over objects, levels, anchors and cells in Python.

Post-processing: decoding, suppression and association of an image of 640 pixels on which about 200
bodies and heads are found, against the forward pass of networks of two sizes. Goal: at most 0.1.

People loader: 64 rendered crowds of 256 pixels with mosaics and other colors, read and collated in
this process, against the training steps of a network of size ``tiny`` on as many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.timing import interleaved_medians, print_ratios


def crowd_detections(count: int, device: str) -> dict[str, Any]:
    """Return as many bodies as heads in a crowd of four persons deep."""
    import torch

    u = torch.rand(count, 6, generator=torch.Generator().manual_seed(count))
    size = torch.stack([40 + 40 * u[:, 2], 120 + 80 * u[:, 3]], 1)
    corner = u[:, :2] * torch.tensor([1600.0, 900.0])
    head = corner + size * torch.tensor([0.3, 0.0])
    bodies = torch.cat([corner, corner + size], 1)
    heads = torch.cat([head, head + size * torch.tensor([0.4, 0.2])], 1)
    points = torch.zeros(2 * count, 1, 2)
    points[:count, 0] = (heads[:, :2] + heads[:, 2:]) / 2 + 10 * (u[:, 4:] - 0.5)
    points[count:, 0] = (bodies[:, :2] + bodies[:, 2:]) / 2
    found = {
        "boxes": torch.cat([bodies, heads]),
        "scores": torch.linspace(1, 0.1, 2 * count),
        "labels": (torch.arange(2 * count) >= count).long(),
        "points": points,
    }
    return {name: value.to(device) for name, value in found.items()}


def associate_in_a_loop(boxes: Any, points: Any, count: int) -> list[int]:
    """Return the body of each head by plain Python, one body at a time."""
    bodies, taken = [], set()
    for part in range(count, 2 * count):
        x0, y0, x1, y1 = boxes[part]
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        nearest, least = -1, math.inf
        for body in range(count):
            px, py = points[body]
            distance = math.hypot(px - x, py - y)
            if distance < least:
                nearest, least = body, distance
        left, top, right, bottom = boxes[nearest]
        width, height = min(x1, right) - max(x0, left), min(y1, bottom) - max(y0, top)
        share = max(0.0, width) * max(0.0, height) / ((x1 - x0) * (y1 - y0))
        fits = nearest not in taken and share > 0.6
        bodies.append(nearest if fits else -1)
        taken |= {nearest} if fits else set()
    return bodies


def associate_with_arrays(boxes: Any, points: Any, count: int) -> list[int]:
    """Return the body of each head, one part at a time."""
    import numpy as np

    bodies, taken = [], set()
    for part in range(count, 2 * count):
        box = boxes[part]
        distance = np.linalg.norm(points[:count] - (box[:2] + box[2:]) / 2, axis=1)
        nearest = int(distance.argmin())
        low = np.maximum(box[:2], boxes[nearest, :2])
        high = np.minimum(box[2:], boxes[nearest, 2:])
        share = (high - low).clip(0).prod() / (box[2:] - box[:2]).prod()
        fits = nearest not in taken and share > 0.6
        bodies.append(nearest if fits else -1)
        taken |= {nearest} if fits else set()
    return bodies


def print_association(device: str, rounds: int) -> None:
    """Print the time for 200 bodies and 200 heads, and whether the pairs are the same."""
    from framework.detection.body_parts import associate

    count = 200
    found = crowd_detections(count, device)
    boxes, points = found["boxes"].cpu().double(), found["points"][:, 0].cpu().double()
    lists, arrays = (boxes.tolist(), points.tolist()), (boxes.numpy(), points.numpy())
    arms: dict[str, Callable[[], object]] = {
        "loop over parts and bodies": lambda: associate_in_a_loop(*lists, count),
        "loop over parts with NumPy": lambda: associate_with_arrays(*arrays, count),
        "vectorized": lambda: associate(found, (1,)),
    }
    medians = interleaved_medians(arms, rounds)
    title = f"Association of {count} bodies and {count} heads, median of {rounds} rounds"
    print_ratios(title, medians, "loop over parts and bodies", {"vectorized": 1 / 30})
    expected = associate_in_a_loop(*lists, count)
    same = associate(found, (1,))["body"][count:].tolist() == expected
    same &= associate_with_arrays(*arrays, count) == expected
    print(f"  {count - expected.count(-1)} heads have a body: {'the same' if same else 'OTHERS'}")


def assign_anchors_in_a_loop(objects: list[Any], anchors: Any, strides: Any, size: int) -> int:
    """Return the number of positive predictions of people, found by plain Python."""
    targets = []
    for image, body, part in objects:
        (bx0, by0, bx1, by1), (px0, py0, px1, py1) = body, part
        centers = ((bx0 + bx1) / 2, (by0 + by1) / 2), ((px0 + px1) / 2, (py0 + py1) / 2)
        for label, (x0, y0, x1, y1) in enumerate((body, part)):
            w, h = x1 - x0, y1 - y0
            for level, s in enumerate(strides):
                number = -(-size // s)
                x, y = centers[label][0] / s, centers[label][1] / s
                point = centers[1 - label][0] / s, centers[1 - label][1] / s
                for anchor, (aw, ah) in enumerate(anchors[level]):
                    if not max(w / aw, aw / w, h / ah, ah / h) < 4:
                        continue
                    i, j = int(x), int(y)
                    cells = [(i, j)]
                    if x % 1 < 0.5 and x > 1:
                        cells.append((i - 1, j))
                    if y % 1 < 0.5 and y > 1:
                        cells.append((i, j - 1))
                    if 0 < (number - x) % 1 < 0.5 and number - x > 1:
                        cells.append((i + 1, j))
                    if 0 < (number - y) % 1 < 0.5 and number - y > 1:
                        cells.append((i, j + 1))
                    for i, j in cells:
                        box = (x - i, y - j, w / s, h / s)
                        shift = (point[0] - i, point[1] - j)
                        targets.append((image, level, anchor, j, i, label, box, shift))
    return len(targets)


def print_anchors(device: str, rounds: int) -> None:
    """Print the time to assign people to anchors, and whether as many predictions are positive."""
    import torch

    from modules.bpjdet import P6_ANCHORS, AnchorAssigner

    images, most, size, strides = 16, 40, 640, (8, 16, 32, 64)
    u = torch.rand(images, most, 4, generator=torch.Generator().manual_seed(0))
    extent = 20 * 15 ** u[..., 2:3] * torch.cat([torch.ones(images, most, 1), 1 + u[..., 3:]], -1)
    corner = u[..., :2] * (size - extent).clamp(min=0)
    bodies = torch.cat([corner, corner + extent], -1)
    heads = torch.cat([corner, corner + extent * 0.3], -1)
    people = {
        "bodies": bodies,
        "parts": heads[:, :, None],
        "visible": torch.ones(images, most, 1, dtype=torch.bool),
        "part_ignored": torch.zeros(images, most, 1, dtype=torch.bool),
        "ignored": torch.zeros(images, most, dtype=torch.bool),
        "num_people": torch.full((images,), most),
    }
    objects = [
        (image, body, head)
        for image in range(images)
        for body, head in zip(bodies[image].tolist(), heads[image].tolist(), strict=True)
    ]
    assigner = AnchorAssigner(torch.tensor(P6_ANCHORS).float(), strides)
    arms: dict[str, Callable[[], object]] = {
        "loop": lambda: assign_anchors_in_a_loop(objects, P6_ANCHORS, strides, size),
        "vectorized": lambda: assigner(people, (1,), (size, size)),
    }
    medians = interleaved_medians(arms, rounds)
    title = f"Anchors of {images} images with {most} people, median of {rounds} rounds"
    print_ratios(title, medians, "loop")
    count = assign_anchors_in_a_loop(objects, P6_ANCHORS, strides, size)
    print(f"  positive: {len(assigner(people, (1,), (size, size)).image)}; loop: {count}")


def crowd_output(grid: Any, device: str) -> Any:
    """Return an output of a network in which about 200 bodies and heads are found."""
    import torch

    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(1, len(grid), 9, generator=generator)
    raw[..., 4] -= 9
    # each by three cells in a row
    first = torch.randint(len(grid) - 2, (130,), generator=generator)
    raw[0, first, 4] += 9
    for shift in (1, 2):
        raw[0, first + shift] = raw[0, first]
    return raw.to(device)


def print_postprocessing(device: str, rounds: int) -> None:
    """Print the time from the output of a network to associated people, against its forward."""
    import torch

    from framework.detection.body_parts import associate
    from framework.detection.detections import on_cpu
    from modules.bpjdet import P6_ANCHORS, BPJDetNetwork
    from modules.bpjdet.anchor_grid import AnchorGrid
    from modules.bpjdet.decoding import detect

    strides = (8, 16, 32, 64)
    anchors = torch.tensor(P6_ANCHORS, dtype=torch.float32, device=device)
    grid = AnchorGrid.of((640, 640), anchors, strides)
    raw = crowd_output(grid, device)
    image = torch.rand(1, 3, 640, 640, device=device)

    def people() -> dict[str, Any]:
        found = on_cpu(detect(raw, grid, num_classes=2, num_slots=1))
        return associate(found[0], (1,))

    found = people()
    for size in ("tiny", "s"):
        network = BPJDetNetwork(2, 1, size=size, strides=strides).to(device).eval()
        with torch.inference_mode():
            arms: dict[str, Callable[[], object]] = {
                "network": partial(network, image),
                "post-processing": people,
            }
            medians = interleaved_medians(arms, rounds)
        title = f"Post-processing after size {size}, 640 pixels, median of {rounds} rounds"
        print_ratios(title, medians, "network", {"post-processing": 0.1})
    bodies = int((found["labels"] == 0).sum())
    print(f"  found: {bodies} bodies, {len(found['labels']) - bodies} heads")


def print_people_loader(device: str, rounds: int) -> None:
    """Print the time to load augmented crowds against that to train on them."""
    from datamodules import MosaicAffine, RandomHSV, RenderedCrowds
    from modules import BPJDet

    data = RenderedCrowds(64, 0, 0, augment=[MosaicAffine(), RandomHSV()])
    data.setup("fit")
    model = BPJDet.for_data(data, size="tiny", strides=(8, 16, 32)).to(device)
    batch = next(iter(data.train_dataloader()))
    batch = {name: value.to(device) for name, value in batch.items()}
    batches = len(data.train_dataloader())

    def train() -> None:
        for _ in range(batches):
            objectives = model.objectives(batch)
            sum(value.mean() for value in objectives.per_sample.values()).backward()

    def load() -> None:
        for _ in data.train_dataloader():
            pass

    medians = interleaved_medians({"training": train, "loading": load}, rounds)
    title = f"64 rendered crowds of 256 pixels, median of {rounds} rounds"
    print_ratios(title, medians, "training")
    for name, seconds in medians.items():
        print(f"  {name}: {64 / seconds:,.0f} images per second")


SECTIONS: dict[str, Callable[[str, int], None]] = {
    "association": print_association,
    "anchors": print_anchors,
    "postprocessing": print_postprocessing,
    "people_loader": print_people_loader,
}

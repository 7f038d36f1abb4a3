"""What detection costs beside what it is usually done with.

    python -m benchmarks.detection [--device cuda] [--rounds 7] [--only nms|assignment|step|...]

On a CPU everything runs on one thread.

Non-maximum suppression: exact and vectorized, against torchvision's IoU of oriented boxes and the
sequential loop, at 300 and 2,000 boxes of dense scenes, threshold 0.3. Goal: at most 0.25 at 2,000,
and the kept boxes are those of the loop on exact polygons; the loop on torchvision's IoU may keep
others.

Assignment: 200 objects on one image of 800 pixels, on the device, against loops over objects,
levels and cells in Python. One fills a target array for every cell with NumPy, as label code in a
data loader does; goal: at most 0.02 of it. The other, of bare floats, finds the owners alone.

Step: forward, assignment, loss and backward at 512 pixels, against forward and backward of the
network alone, of 8 images with 20 objects each. Goal: at most 1.11, so that a tenth of the step is
spent outside the network.

Loader: an epoch of rendered scenes with flips and turns, read and collated in this process, against
the training steps of the default network on them.

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

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

NMS_THRESHOLD = 0.3


# ---- non-maximum suppression ---------------------------------------------------------------------


def dense_scene(count: int, device: str) -> tuple[Any, Any]:
    """Return boxes (N, 5) and scores of a crowd in which each object is detected some ten times."""
    import torch

    generator = torch.Generator().manual_seed(count)
    u = torch.rand(max(1, count // 10), 5, generator=generator)
    area = 16 * math.sqrt(count)
    objects = torch.stack(
        [u[:, 0] * area, u[:, 1] * area, u[:, 2] * 50 + 10, u[:, 3] * 50 + 10, u[:, 4] * math.pi], 1
    )
    boxes = objects[torch.randint(len(objects), (count,), generator=generator)]
    noise = torch.randn(count, 5, generator=generator)
    boxes[:, :2] += 0.08 * noise[:, :2] * boxes[:, 2:4]
    boxes[:, 2:4] *= (0.1 * noise[:, 2:4]).exp()
    boxes[:, 4] += 0.1 * noise[:, 4]
    return boxes.to(device), torch.rand(count, generator=generator).to(device)


def sequential(overlap: Any, scores: Any) -> list[int]:
    """Return what the plain loop keeps."""
    import torch

    alive = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if alive[i]:
            kept.append(i)
            alive &= overlap[i] <= NMS_THRESHOLD
    return kept


def print_nms(device: str, rounds: int) -> None:
    """Print the times at 300 and 2,000 boxes, and whether the kept boxes are the exact ones."""
    from torchvision.ops import box_iou

    from framework.detection.rotated import cxcywhr_to_torchvision, rotated_iou, rotated_nms

    for count in (300, 2_000):
        boxes, scores = dense_scene(count, device)
        theirs = cxcywhr_to_torchvision(boxes)

        def loop(theirs: Any = theirs, scores: Any = scores) -> list[int]:
            return sequential(box_iou(theirs, theirs, fmt="cxcywhr"), scores)

        def ours(boxes: Any = boxes, scores: Any = scores) -> list[int]:
            return rotated_nms(boxes, scores, NMS_THRESHOLD, fmt="cxcywhr").tolist()

        arms: dict[str, Callable[[], object]] = {"torchvision IoU and loop": loop, "exact": ours}
        medians = interleaved_medians(arms, rounds)
        goals = {"exact": 0.25} if count == 2_000 else None
        title = f"NMS of {count:,} boxes, median of {rounds} rounds"
        print_ratios(title, medians, "torchvision IoU and loop", goals)
        doubles = boxes.double()
        exact = sequential(rotated_iou(doubles, doubles, fmt="cxcywhr"), scores)
        same, loops = ours() == exact, len(set(loop()) ^ set(exact))
        print(
            f"  {len(exact)} kept; exact: {'the same' if same else 'OTHERS'}; loop: {loops} differ"
        )


# ---- training -----------------------------------------------------------------------------------


def random_objects(images: int, objects: int, size: int, device: str) -> tuple[Any, Any, Any]:
    """Return quads (B, M, 4, 2), labels of 15 classes and weights."""
    import torch

    from framework.detection.rotated import cxcywhr_to_quad

    u = torch.rand(images, objects, 5, generator=torch.Generator().manual_seed(0))
    long = 12 * (size / 60) ** u[..., 2]
    rectangles = torch.stack(
        [
            u[..., 0] * size,
            u[..., 1] * size,
            long,
            long * (0.2 + 0.6 * u[..., 3]),
            u[..., 4] * 3.14,
        ],
        -1,
    )
    label = torch.arange(objects).expand(images, objects) % 15
    weight = torch.ones(images, objects)
    return cxcywhr_to_quad(rectangles).to(device), label.to(device), weight.to(device)


def assign_with_arrays(quads: Any, labels: list[int], size: int) -> list[Any]:
    """Return a target array (H, W, 16 + C) per level, one cell at a time."""
    import numpy as np

    targets = [np.zeros((size // s, size // s, 31), dtype=np.float32) for s in (8, 16, 32)]
    limits = [3 * 16 / 0.7 * size / 800, 3 * 64 / 0.7 * size / 800]
    ranges = [(0, 1.2 * limits[0]), (limits[0], 1.2 * limits[1]), (limits[1], math.inf)]
    for quad, label in zip(quads, labels, strict=True):
        low, high = quad.min(0), quad.max(0)
        edges = np.roll(quad, -1, 0) - quad
        lengths = np.linalg.norm(edges, axis=1)
        long = edges[lengths[:2].argmax()] / lengths[:2].max()
        turn = np.array([[long[0], long[1]], [-long[1], long[0]]])
        sides = np.array([lengths[:2].max(), lengths[:2].min()])
        s = np.array([quad[0, 0], quad[1, 1], quad[2, 0], quad[3, 1]])
        for level, stride in enumerate((8, 16, 32)):
            if not ranges[level][0] < (high - low).max() <= ranges[level][1]:
                continue
            center = np.floor(quad.mean(0) / stride).astype(int)
            sigma = (sides / (2 * stride)) ** 0.7 / 2
            precision = turn.T @ np.diag(1 / sigma**2) @ turn
            reach = np.clip((high - low) / (2 * stride), 1, 4 - level).astype(int) + 1
            for j in range(center[1] - reach[1], center[1] + reach[1] + 1):
                for i in range(center[0] - reach[0], center[0] + reach[0] + 1):
                    if not (0 <= i < size // stride and 0 <= j < size // stride):
                        continue
                    place = (np.array([i, j]) + 0.5) * stride
                    distances = np.concatenate([place - low, high - place])
                    offset = np.array([i, j]) - center
                    g = np.exp(-0.5 * offset @ precision @ offset)
                    cell = targets[level][j, i]
                    if g > 0.05 and distances.min() > 0 and g > cell[16 + label]:
                        cell[:4] = np.concatenate([(low + high) / 2, high - low])
                        cell[4:8] = distances
                        cell[8:12] = s
                        cell[13:16] = 1
                        cell[16 + label] = g
    return targets


def assign_in_a_loop(quads: list[Any], labels: list[int], size: int) -> dict[Any, Any]:
    """Return the owner of every positive cell by plain Python, one cell at a time."""
    limits = [3 * 16 / 0.7 * size / 800, 3 * 64 / 0.7 * size / 800]
    ranges = [(0, 1.2 * limits[0]), (limits[0], 1.2 * limits[1]), (limits[1], math.inf)]
    owners: dict[Any, Any] = {}
    for number, (quad, label) in enumerate(zip(quads, labels, strict=True)):
        xs, ys = [x for x, _ in quad], [y for _, y in quad]
        x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
        edges = [
            (quad[(k + 1) % 4][0] - quad[k][0], quad[(k + 1) % 4][1] - quad[k][1]) for k in range(4)
        ]
        long, short = edges[0], edges[1]
        if math.hypot(*long) < math.hypot(*short):
            long, short = short, long
        angle = math.atan2(long[1], long[0])
        for level, stride in enumerate((8, 16, 32)):
            if not ranges[level][0] < max(x1 - x0, y1 - y0) <= ranges[level][1]:
                continue
            cx, cy = int(sum(xs) / 4 // stride), int(sum(ys) / 4 // stride)
            sigma = [(math.hypot(*side) / (2 * stride)) ** 0.7 / 2 for side in (long, short)]
            reach = [
                int(min(max(extent / (2 * stride), 1), 4 - level)) for extent in (x1 - x0, y1 - y0)
            ]
            for j in range(cy - reach[1] - 1, cy + reach[1] + 2):
                for i in range(cx - reach[0] - 1, cx + reach[0] + 2):
                    x, y = (i + 0.5) * stride, (j + 0.5) * stride
                    if not (x0 < x < x1 and y0 < y < y1 and 0 < x < size and 0 < y < size):
                        continue
                    dx, dy = i - cx, j - cy
                    u = (dx * math.cos(angle) + dy * math.sin(angle)) / sigma[0]
                    v = (dy * math.cos(angle) - dx * math.sin(angle)) / sigma[1]
                    g = math.exp(-(u * u + v * v) / 2)
                    if g > 0.05 and g > owners.get((level, j, i), (0,))[0]:
                        owners[level, j, i] = (g, number, label)
    return owners


def print_assignment(device: str, rounds: int) -> None:
    """Print the time for 200 objects, and whether as many cells are positive."""
    from modules.gghl.assignment import OrientedGaussianAssigner

    size = 800
    quads, label, weight = random_objects(1, 200, size, device)
    assigner = OrientedGaussianAssigner()
    plain, plain_labels = quads[0].tolist(), label[0].tolist()
    arrays = quads[0].cpu().numpy()
    arms: dict[str, Callable[[], object]] = {
        "loop with NumPy": lambda: assign_with_arrays(arrays, plain_labels, size),
        "loop with floats, owners alone": lambda: assign_in_a_loop(plain, plain_labels, size),
        "vectorized": lambda: assigner(quads, label, weight, (size, size), 15),
    }
    medians = interleaved_medians(arms, rounds)
    title = f"Assignment of 200 objects, median of {rounds} rounds"
    print_ratios(title, medians, "loop with NumPy", {"vectorized": 0.02})
    cells = len(assign_in_a_loop(plain, plain_labels, size))
    found = len(assigner(quads, label, weight, (size, size), 15).cell)
    print(f"  positive cells: {found}; loop: {cells}")


def training_arms(
    backbone: str, images: Any, objects: tuple[Any, Any, Any], device: str
) -> dict[str, Callable[[], object]]:
    """Return the network's forward and backward alone, and the whole step without the optimizer."""
    import torch

    from modules.gghl.assignment import OrientedGaussianAssigner
    from modules.gghl.cells import Cells
    from modules.gghl.loss import JointOptimizationLoss
    from modules.gghl.network import GGHLNetwork

    neck = "top_down" if backbone == "darknet53" else "pyramid"
    network = GGHLNetwork(15, backbone, neck=neck, neck_width=None if neck == "top_down" else 48)
    network = network.to(device)
    assigner, loss = OrientedGaussianAssigner(), JointOptimizationLoss(15, empty_level="local")
    size = tuple(images.shape[-2:])

    def alone() -> None:
        raw = network(images)
        raw.backward(torch.ones_like(raw))

    def step() -> None:
        raw = network(images)
        terms = loss(raw, Cells.of(size, device=raw.device), assigner(*objects, size, 15))
        torch.stack(list(terms.values())).sum().backward()

    return {"network alone": alone, "step": step}


def print_step(device: str, rounds: int) -> None:
    """Print the whole step's time against the network's."""
    import torch

    objects = random_objects(8, 20, 512, device)
    images = torch.rand(8, 3, 512, 512, device=device)
    backbones = ["plain", "resnet18"] + ["darknet53"] * (device == "cuda")
    for backbone in backbones:
        medians = interleaved_medians(training_arms(backbone, images, objects, device), rounds)
        title = f"Step with {backbone}, 8 images of 512 pixels, median of {rounds} rounds"
        print_ratios(title, medians, "network alone", {"step": 1.11})


def print_loader(device: str, rounds: int) -> None:
    """Print the time to load an epoch against that to train on it."""
    import torch

    from datamodules import RandomFlip, RandomQuarterTurn, RenderedScenes

    data = RenderedScenes(160, 0, 0, augment=[RandomFlip(), RandomQuarterTurn()])
    data.setup("fit")
    arms = training_arms(
        "plain",
        torch.rand(16, 3, 160, 160, device=device),
        random_objects(16, 5, 160, device),
        device,
    )

    def train() -> None:
        for _ in range(10):
            arms["step"]()

    def load() -> None:
        for _ in data.train_dataloader():
            pass

    medians = interleaved_medians({"training": train, "loading": load}, rounds)
    title = f"160 rendered scenes of 160 pixels, median of {rounds} rounds"
    print_ratios(title, medians, "training")
    for name, seconds in medians.items():
        print(f"  {name}: {160 / seconds:,.0f} images per second")


# ---- people --------------------------------------------------------------------------------------


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


# ---- all of it -----------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[str, int], None]] = {
    "nms": print_nms,
    "assignment": print_assignment,
    "step": print_step,
    "loader": print_loader,
    "association": print_association,
    "anchors": print_anchors,
    "postprocessing": print_postprocessing,
    "people_loader": print_people_loader,
}


def main() -> None:
    """Run and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=list(SECTIONS), help="one section; default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine(arguments.device))
    for name, section in SECTIONS.items():
        if arguments.only in (None, name):
            section(arguments.device, arguments.rounds)


if __name__ == "__main__":
    pin_allocator()
    main()

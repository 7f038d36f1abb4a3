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

The sections of people and their parts are described in ``benchmarks.people_detection``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from benchmarks import people_detection
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


# ---- all of it -----------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[str, int], None]] = {
    "nms": print_nms,
    "assignment": print_assignment,
    "step": print_step,
    "loader": print_loader,
    **people_detection.SECTIONS,
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

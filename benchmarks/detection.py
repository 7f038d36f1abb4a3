"""What oriented detection costs beside what it is usually done with.

    python -m benchmarks.detection [--device cuda] [--rounds 7] [--only nms]

On a CPU everything runs on one thread.

Non-maximum suppression: exact and vectorised, against torchvision's IoU of oriented boxes and the
sequential loop, at 300 and 2,000 boxes of dense scenes, threshold 0.3. Goal: at most 0.25 at 2,000,
and the kept boxes are those of the loop on exact polygons; the loop on torchvision's IoU may keep
others.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
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

    from framework.ops.rotated import cxcywhr_to_torchvision, rotated_iou, rotated_nms

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


# ---- all of it -----------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[str, int], None]] = {"nms": print_nms}


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

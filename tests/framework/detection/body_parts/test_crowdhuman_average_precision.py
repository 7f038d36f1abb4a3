"""Average precision and miss rate by the rules of CrowdHuman."""

import math
from itertools import pairwise

import pytest
import torch

from framework.detection.body_parts import CrowdHumanAveragePrecision
from tests.helpers.evaluated_people import CLASSES, SLOTS, Images, images, truth_of, updated

REFERENCES = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)


def metric_of(batch: Images, slots: tuple[int, ...] = SLOTS) -> dict[str, float]:
    metric = CrowdHumanAveragePrecision(CLASSES[: max(slots) + 1], slots)
    values = updated(metric, batch).compute()
    return {name: value.item() for name, value in values.items() if value.ndim == 0}


def cut(box: list[float], size: list[float]) -> list[float]:
    limits = size * 2
    return [min(max(value, 0.0), limit) for value, limit in zip(box, limits, strict=True)]


def shared(a: list[float], b: list[float]) -> float:
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    return max(width, 0.0) * max(height, 0.0)


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def of_the_spec(batch: Images, label: int) -> tuple[float, float]:
    """Return AP and MR^-2 of a class, detection by detection."""
    results, positives, counted_images = [], 0, 0
    for found, truth, _ in sorted(batch, key=lambda one: one[2]):
        size, objects = truth["image_size"].tolist(), []
        ignored = truth["ignored"].tolist()
        counted_images += not all(ignored)
        for person, body in enumerate(truth["bodies"].tolist()):
            if ignored[person]:
                objects.append((cut(body, size), True))
            elif label == 0:
                objects.append((cut(body, size), False))
            else:
                for slot, part in enumerate(truth["parts"][person].tolist()):
                    if SLOTS[slot] == label and truth["visible"][person, slot]:
                        objects.append((cut(part, size), False))
                    if SLOTS[slot] == label and truth["part_ignored"][person, slot]:
                        objects.append((cut(part, size), True))
        objects = [one for one in objects if area(one[0]) > 0 or one[1]]
        objects.sort(key=lambda one: one[1])
        positives += sum(not ignore for _, ignore in objects)
        taken = [False] * len(objects)
        rows = [k for k, other in enumerate(found["labels"].tolist()) if other == label]
        for row in sorted(rows, key=lambda k: -found["scores"][k].item()):
            box = cut(found["boxes"][row].tolist(), size)
            if area(box) <= 0:
                continue
            best, kept = 0.5, None
            for place, (other, ignore) in enumerate(objects):
                common = shared(box, other)
                if not ignore:
                    iou = common / (area(box) + area(other) - common)
                    if not taken[place] and iou > best:
                        best, kept = iou, place
                elif kept is None and common / area(box) > 0.5:
                    kept = place
                    break
                elif kept is not None:
                    break
            if kept is not None and objects[kept][1]:
                continue
            if kept is not None:
                taken[kept] = True
            results.append((-found["scores"][row].item(), kept is not None))
    results.sort(key=lambda one: one[0])
    right = wrong = 0
    curve = []
    for _, correct in results:
        right, wrong = right + correct, wrong + (not correct)
        curve.append((right / positives, right / (right + wrong), wrong / counted_images))
    ap = sum((b[0] - a[0]) * (b[1] + a[1]) / 2 for a, b in pairwise(curve))
    misses = [next((c for c in curve if c[2] >= r), curve[-1])[0] for r in REFERENCES]
    return ap, math.exp(sum(math.log(1 - recall) for recall in misses) / 9)


@pytest.mark.parametrize("seed", range(6))
def test_against_the_spec(seed: int) -> None:
    batch = images(seed)
    values = metric_of(batch)
    for label, name in enumerate(CLASSES):
        ap, mr = of_the_spec(batch, label)
        assert values[f"{name}_ap_crowdhuman"] == pytest.approx(ap, abs=1e-6)
        assert values[f"{name}_mr"] == pytest.approx(mr, abs=1e-6)
        assert 0.05 < mr < 0.98


def body(found: list[list[float]], bodies: list[list[float]], **fields: object) -> tuple:
    """Return AP and miss rate of bodies that are found with descending scores on one image."""
    boxes = torch.tensor(found).view(-1, 4)
    detections = {
        "boxes": boxes,
        "scores": torch.linspace(0.9, 0.1, len(boxes)),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
    }
    values = metric_of([(detections, truth_of(bodies, **fields), 0)], slots=(1,))
    return values["body_ap_crowdhuman"], values["body_mr"]


A, B, C = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [40.0, 0, 50, 10]
NOTHING = [200.0, 200, 210, 210]


def test_worked_by_hand() -> None:
    # recall 1/3, 1/3, 2/3 and precision 1, 1/2, 2/3: only the last step has width
    ap, mr = body([A, NOTHING, B], [A, B, C])
    assert ap == pytest.approx(1 / 3 * (1 / 2 + 2 / 3) / 2)
    assert mr == pytest.approx(2 / 3)
    # the segment before the first detection does not count
    assert body([A, B, C], [A, B, C]) == (pytest.approx(2 / 3), 0)
    assert body([A], [A]) == (0, 0)
    assert body([], [A]) == (0, 1)


def test_regions_absorb_any_number_but_objects_come_first() -> None:
    wide = [0.0, 0, 100, 100]
    ignored = {"ignored": [True, False, False]}
    # two in the region, one of them no object; the region is the least chosen
    assert body([NOTHING, A, A, B], [wide, A, B], **ignored) == body([NOTHING, A, B], [A, B])
    # exactly half of it inside is not enough
    half = [95.0, 0, 105, 10]
    assert body([half, A, B], [wide, A, B], **ignored) == body([NOTHING, A, B], [A, B])
    half[2] = 104.9
    assert body([half, A, B], [wide, A, B], **ignored) == body([A, B], [A, B])


def test_boxes_end_at_the_border() -> None:
    # beyond the border the two have little in common
    true, found = [-30.0, 0, 20, 60], [-5.0, 0, 20, 60]
    assert body([found, A], [true, [300.0, 0, 320, 60]])[1] == pytest.approx(0.5)
    # what nobody can see need not be found
    away = [-30.0, 0, -10, 60]
    assert body([away, A, B], [away, A, B]) == body([A, B], [A, B])


def test_only_images_with_counted_persons_count() -> None:
    nobody = truth_of([A], ignored=[True])
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}
    empty["labels"] = torch.zeros(0, dtype=torch.int64)
    boxes = torch.tensor([A, NOTHING, B])
    found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7])}
    found["labels"] = torch.zeros(3, dtype=torch.int64)
    scored = (found, truth_of([A, B, C]), 0)
    alone = metric_of([scored], (1,))
    assert metric_of([scored, (empty, nobody, 1)], (1,)) == alone
    more = metric_of([scored, (empty, truth_of([A]), 1)], (1,))
    # 4 bodies, and half a false positive per image, with which 1 is found, and in the end 2
    assert more["body_mr"] == pytest.approx((0.75**7 * 0.5**2) ** (1 / 9))
    assert alone["body_mr"] == pytest.approx(2 / 3)


def test_ignored_heads_and_heads_of_ignored_bodies() -> None:
    bodies = [[0.0, 0, 40, 120], [100.0, 0, 140, 120], [200.0, 0, 240, 120]]
    truth = truth_of(bodies, ignored=[False, True, False])
    truth["part_ignored"][2] = True
    truth["visible"][2] = False
    head = truth["parts"][:, 0]
    # a head anywhere on the ignored body, and the ignored head
    boxes = torch.cat([head[:1], head[1:2] + torch.tensor([5.0, 60, 5, 60]), head[2:]])
    found = {"boxes": boxes, "scores": torch.tensor([0.7, 0.8, 0.9])}
    found["labels"] = torch.ones(3, dtype=torch.int64)
    assert metric_of([(found, truth, 0)], (1,))["head_mr"] == 0
    # elsewhere on the body of the ignored head it is wrong
    found["boxes"][2, [1, 3]] += 60
    assert metric_of([(found, truth, 0)], (1,))["head_mr"] == 1

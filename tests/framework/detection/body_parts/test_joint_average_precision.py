"""Joint average precision and conditional accuracy, as on BodyHands."""

import math

import numpy as np
import pytest
import torch

from framework.detection.body_parts import JointAveragePrecision
from tests.helpers.evaluated_people import (
    CLASSES,
    SLOTS,
    Images,
    as_found,
    images,
    truth_of,
    updated,
)


def metric_of(batch: Images, slots: tuple[int, ...] = (1,), **arguments) -> dict[str, float]:
    metric = JointAveragePrecision(CLASSES[: max(slots) + 1], slots, **arguments)
    values = updated(metric, batch).compute()
    return {name: value.item() for name, value in values.items()}


def iou(a: list[float], b: list[float]) -> float:
    """Return the IoU of boxes that count pixels from 1 and include their last one."""
    a, b = ([box[0] + 1, box[1] + 1, *box[2:]] for box in (a, b))
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + 1 for k in (0, 1))
    common = max(width, 0.0) * max(height, 0.0)
    area, other = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return common / (area + other - common)


def of_the_kit(batch: Images, label: int, single: bool) -> tuple[float, float]:
    """Return VOC07's AP and, of the parts found, the share with the right body."""
    targets, lines, positives = {}, [], 0
    for found, truth, number in batch:
        targets[number] = []
        for person, slot in (truth["visible"] | truth["part_ignored"]).nonzero().tolist():
            if SLOTS[slot] == label:
                difficult = bool(truth["ignored"][person] | truth["part_ignored"][person, slot])
                part, body = truth["parts"][person, slot], truth["bodies"][person]
                positives += not difficult
                targets[number].append([part.tolist(), body.tolist(), difficult, False])
        for row, body in enumerate(found["body"].tolist()):
            if body >= 0 and found["labels"][row] == label:
                boxes = (found["boxes"][k].tolist() for k in (row, body))
                lines.append((-found["scores"][row].item(), number, row, *boxes))
    right, wrong, right_bodies = [], [], 0
    for _, number, _, part, body in sorted(lines, key=lambda line: line[:3]):
        overlap = [iou(part, target[0]) for target in targets[number]]
        right.append(0)
        wrong.append(0)
        if not overlap or max(overlap) <= 0.5:
            wrong[-1] = 1
            continue
        target = targets[number][overlap.index(max(overlap))]
        if target[2]:
            continue
        has_body = iou(body, target[1]) > 0.5
        if target[3] or (single and not has_body):
            wrong[-1] = 1
        else:
            right[-1], target[3] = 1, True
            right_bodies += has_body
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    recall, precision = tp / positives, tp / np.maximum(tp + fp, 1)
    reached = [precision[recall >= k / 10] for k in range(11)]
    return sum(p.max() / 11 for p in reached if len(p)), right_bodies / max(1, sum(right))


@pytest.mark.parametrize("seed", range(6))
def test_against_the_evaluation_code(seed: int) -> None:
    batch = images(seed)
    values = metric_of(batch, SLOTS)
    for label, name in ((1, "head"), (2, "hand")):
        part, accuracy = of_the_kit(batch, label, single=False)
        joint, _ = of_the_kit(batch, label, single=True)
        assert 0.02 < joint < part < 0.9
        assert values[f"{name}_ap_associated"] == pytest.approx(part, abs=1e-6)
        assert values[f"{name}_joint_ap"] == pytest.approx(joint, abs=1e-6)
        assert values[f"{name}_conditional_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    for name in ("ap_associated", "joint_ap", "conditional_accuracy"):
        mean = (values[f"head_{name}"] + values[f"hand_{name}"]) / 2
        assert values[name] == pytest.approx(mean)


def row_of(count: int, right: list[int], scores: list[float]) -> tuple:
    """Return an image with bodies in a row; a place of -1 is found where nobody is."""
    truth = truth_of([[30.0 * k, 0, 30 * k + 20, 60] for k in range(count)])
    bodies = [[30.0 * k, 0, 30 * k + 20, 60] if k >= 0 else [0.0, 200, 20, 260] for k in right]
    found = as_found(truth_of(bodies), (1,))
    found["scores"] = torch.tensor(scores * 2)
    return found, truth, 0


def test_worked_example() -> None:
    image = row_of(3, [0, -1, 1], [0.9, 0.8, 0.7])
    voc07, voc12 = (metric_of([image], interpolation=rule) for rule in ("voc07", "voc12"))
    assert voc07["joint_ap"] == pytest.approx(0.545455, abs=5e-7)
    assert voc12["joint_ap"] == pytest.approx(0.555556, abs=5e-7)
    assert voc07["head_conditional_accuracy"] == 1


def test_a_recall_of_exactly_three_tenths_reaches_the_fourth_point() -> None:
    # three steps of 0.1 add up to more than 0.3, and would lose the point
    values = metric_of([row_of(10, [0, 1, 2], [0.9, 0.8, 0.7])])
    assert values["joint_ap"] == pytest.approx(4 / 11)


def test_the_right_body_may_come_later() -> None:
    found, truth, number = row_of(2, [0, 1, 0], [0.9, 0.8, 0.7])
    found["body"] = torch.tensor([-1, -1, -1, 1, 1, 0])
    values = metric_of([(found, truth, number)])
    # the first part has the wrong body, the third finds the same part again with the right one
    assert values["head_ap_associated"] == 1
    assert values["head_conditional_accuracy"] == 0.5
    assert values["head_joint_ap"] == pytest.approx(2 / 3)


def test_parts_without_a_body_are_not_looked_at() -> None:
    found, truth, number = row_of(2, [0, 1, -1], [0.9, 0.8, 0.95])
    found["body"] = torch.tensor([-1, -1, -1, 0, 1, -1])
    assert metric_of([(found, truth, number)])["joint_ap"] == 1


def test_difficult_parts_neither_count_nor_cost() -> None:
    found, truth, number = row_of(3, [2, 2, 0, 1], [0.9, 0.8, 0.7, 0.6])
    truth["ignored"][2] = True
    assert metric_of([(found, truth, number)])["joint_ap"] == 1
    truth["ignored"][2] = False
    truth["part_ignored"][2] = True
    truth["visible"][2] = False
    assert metric_of([(found, truth, number)])["joint_ap"] == 1


def test_nothing_found_is_0_and_nothing_to_find_is_nan() -> None:
    found, truth, number = row_of(2, [], [])
    assert {*metric_of([(found, truth, number)]).values()} == {0.0}
    truth["visible"][:] = False
    assert all(math.isnan(v) for v in metric_of([(found, truth, number)]).values())


def test_unknown_interpolation() -> None:
    with pytest.raises(ValueError, match="got 'voc10'"):
        JointAveragePrecision(("body", "hand"), (1,), interpolation="voc10")

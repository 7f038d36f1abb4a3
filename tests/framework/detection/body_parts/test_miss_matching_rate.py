"""Miss matching rate of pairs of a body and a part."""

import math

import pytest
import torch

from framework.detection.body_parts import MissMatchingRate
from framework.detection.body_parts.miss_matching_rate import SUBSETS
from tests.helpers.evaluated_people import (
    CLASSES,
    SLOTS,
    Images,
    as_found,
    images,
    truth_of,
    updated,
)

REFERENCES = (0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000)


def metric_of(batch: Images, slots: tuple[int, ...] = (1,), **arguments) -> dict[str, float]:
    metric = MissMatchingRate(CLASSES[: max(slots) + 1], slots, **arguments)
    values = updated(metric, batch).compute()
    return {name: value.item() for name, value in values.items() if value.ndim == 0}


def shared(a: list[float], b: list[float]) -> float:
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    return max(width, 0.0) * max(height, 0.0)


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a: list[float], b: list[float]) -> float:
    return shared(a, b) / (area(a) + area(b) - shared(a, b))


def of_the_spec(batch: Images, label: int, ranges: tuple) -> float:
    """Return mMR^-2 of a part class in a subset, pair by pair."""
    (low, high), (least, most), (shortest, longest) = ranges
    results, positives = [], 0
    for found, truth, _ in sorted(batch, key=lambda one: one[2]):
        pairs = []
        for person, body in enumerate(truth["bodies"].tolist()):
            for slot, part in enumerate(truth["parts"][person].tolist()):
                visible, hidden = (truth[n][person, slot] for n in ("visible", "part_ignored"))
                if SLOTS[slot] != label or not (visible or hidden):
                    continue
                ratio = round(truth["visible_ratio"][person].item(), 6)
                ignore = bool(truth["ignored"][person]) or bool(hidden)
                ignore |= not low <= body[3] - body[1] <= high
                ignore |= not least <= ratio <= most
                ignore |= not shortest <= part[3] - part[1] <= longest
                pairs.append((body, part, ignore))
        pairs.sort(key=lambda pair: pair[2])
        positives += sum(not ignore for _, _, ignore in pairs)
        scores = found["scores"].double()
        rows = [
            (-(scores[row] + scores[body]).item(), row, body)
            for row, body in enumerate(found["body"].tolist())
            if found["labels"][row] == label and body >= 0
        ]
        taken = [False] * len(pairs)
        for score, row, owner in sorted(rows, key=lambda one: one[0]):
            part, body = (found["boxes"][k].tolist() for k in (row, owner))
            if not low / 1.25 <= body[3] - body[1] < high * 1.25:
                continue
            if not shortest <= part[3] - part[1] <= longest:
                continue
            best, kept = (0.5, 0.5), None
            for place, (true_body, true_part, ignore) in enumerate(pairs):
                if taken[place] or (ignore and kept is not None):
                    continue
                over = shared(body, true_body) / area(body) if ignore else iou(body, true_body)
                over_part = iou(part, true_part)
                if over >= best[0] and over_part >= best[1]:
                    best, kept = (over, over_part), place
            if kept is not None and pairs[kept][2]:
                continue
            if kept is not None:
                taken[kept] = True
            results.append((score, kept is not None))
    if not positives:
        return math.nan
    results.sort(key=lambda one: one[0])
    right = wrong = 0
    curve = [(0.0, 1.0)]
    for _, correct in results:
        right, wrong = right + correct, wrong + (not correct)
        curve.append((wrong / len(batch), 1 - right / positives))
    misses = [[miss for fppi, miss in curve if fppi <= r][-1] for r in REFERENCES]
    return math.exp(sum(math.log(miss) for miss in misses) / 9)


@pytest.mark.parametrize("subsets", ["crowdhuman", "citypersons"])
@pytest.mark.parametrize("seed", range(3))
def test_against_the_spec(seed: int, subsets: str) -> None:
    batch = images(seed)
    values = metric_of(batch, SLOTS, subsets=subsets)
    seen = []
    for label, name in enumerate(CLASSES[1:], start=1):
        expected = [of_the_spec(batch, label, ranges) for ranges in SUBSETS[subsets].values()]
        for subset, rate in zip(SUBSETS[subsets], expected, strict=True):
            got = values[f"{name}_mmr_{subset}"]
            assert got == pytest.approx(rate, abs=1e-6, nan_ok=True)
        numbers = [rate for rate in expected if not math.isnan(rate)]
        assert values[f"{name}_mmr"] == pytest.approx(sum(numbers) / len(numbers), abs=1e-6)
        seen += numbers
    assert min(seen) < 0.95
    means = [values[f"{name}_mmr"] for name in CLASSES[1:]]
    assert values["mmr"] == pytest.approx(sum(means) / 2, abs=1e-6)


def pair(x: float, height: float = 60.0) -> list[float]:
    return [x, 0.0, x + 20, height]


def scored(found: list[float], true: list[float], scores: list[float], number: int) -> tuple:
    """Return an image with pairs at places to the right, each with a head of 10 by 20."""
    truth = truth_of([pair(x) for x in true])
    detections = as_found(truth_of([pair(x) for x in found]), (1,))
    detections["scores"] = torch.tensor(scores * 2)
    return detections, truth, number


def test_worked_example() -> None:
    # right, wrong, right, wrong, on 2 images with 3 pairs
    batch = [
        scored([0, 200], [0, 50], [0.9, 0.8], 0),
        scored([0, 200], [0], [0.7, 0.6], 1),
    ]
    values = metric_of(batch)
    assert values["head_mmr_reasonable"] == pytest.approx(0.571496, abs=5e-7)
    assert values["head_mmr_small"] == values["head_mmr_reasonable"]
    assert math.isnan(values["head_mmr_heavy"])
    assert math.isnan(values["head_mmr_all"])
    assert values["mmr"] == values["head_mmr"] == values["head_mmr_reasonable"]


def test_on_few_images_a_wrong_first_pair_hides_the_later_ones() -> None:
    values = metric_of([scored([200, 0], [0], [0.9, 0.8], 0)])
    # up to 0.5623 false positives per image there is no pair, at 1 there are both
    assert values["head_mmr_reasonable"] == 0
    values = metric_of([scored([200, 0], [0, 50], [0.9, 0.8], 0)])
    assert values["head_mmr_reasonable"] == pytest.approx(0.5 ** (1 / 9))
    values = metric_of([scored([200, 250, 0], [0], [0.9, 0.85, 0.8], 0)])
    assert values["head_mmr_reasonable"] == 1


def test_scores_of_body_and_part_add_up() -> None:
    detections, truth, number = scored([0, 200], [0, 50], [0.9, 0.8], 0)
    assert metric_of([(detections, truth, number)])["mmr"] == pytest.approx(0.5)
    # 0.9 + 0.1 against 0.8 + 0.8
    detections["scores"] = torch.tensor([0.9, 0.8, 0.1, 0.8])
    assert metric_of([(detections, truth, number)])["mmr"] == pytest.approx(0.5 ** (1 / 9))


def test_the_part_of_another_body_is_no_match() -> None:
    detections, truth, number = scored([0, 50], [0, 50], [0.9, 0.8], 0)
    assert metric_of([(detections, truth, number)])["mmr"] == 0
    detections["body"] = torch.tensor([-1, -1, 1, 0])
    assert metric_of([(detections, truth, number)])["mmr"] == 1


def test_pairs_outside_of_a_subset_are_overlooked() -> None:
    # heights of 60, 40 and 60, of which the last is missed and the second best scored
    truth = truth_of([[0.0, 0, 20, 60], [50.0, 0, 70, 40], [300.0, 0, 320, 60]])
    truth["parts"][1, 0, 3] = 12
    found = as_found(truth_of(truth["bodies"][:2], truth["parts"][:2]), (1,))
    found["scores"] = torch.tensor([0.5, 0.9, 0.5, 0.9])
    overlooked, wrong = pytest.approx(0.5), pytest.approx(0.5 ** (1 / 9))

    def rate(body: list[float], part: list[float]) -> float:
        boxes = found["boxes"].clone()
        boxes[1], boxes[3] = torch.tensor(body), torch.tensor(part)
        return metric_of([(found | {"boxes": boxes}, truth, 0)])["head_mmr_reasonable"]

    # detected at 45, within a quarter of 50, as a pair that does not belong to the subset
    body, part = [50.0, 0, 70, 45], [50.0, 0, 70, 12]
    assert rate(body, part) == overlooked
    # the body need only hold half of what is detected, but the part is that part
    assert rate([50.0, 0, 90, 40], part) == overlooked
    assert rate([50.0, 0, 91, 40], part) == wrong
    assert rate(body, [50.0, 20, 70, 32]) == wrong
    # elsewhere it is wrong, unless one of the two is not even looked at
    assert rate([200.0, 0, 220, 40], part) == wrong
    assert rate([200.0, 0, 220, 39], part) == overlooked
    assert rate([200.0, 0, 220, 40], [200.0, 0, 220, 9]) == overlooked


def test_unknown_subsets() -> None:
    with pytest.raises(ValueError, match="subsets must be one of crowdhuman, citypersons, got 'x'"):
        MissMatchingRate(("body", "head"), (1,), subsets="x")


def test_curves_go_with_the_averages() -> None:
    batch = [scored([0, 200], [0, 50], [0.9, 0.8], 0), scored([0, 200], [0], [0.7, 0.6], 1)]
    values = updated(MissMatchingRate(CLASSES[:2], (1,)), batch).compute()
    fppi, curves = values["mmr_fppi"], values["head_miss_matching_rate"]
    assert curves.shape == (4, len(fppi))
    expected = torch.where(fppi < 0.5, 2 / 3, 1 / 3)
    torch.testing.assert_close(curves[:2], expected.expand(2, -1))
    assert curves[2:].isnan().all()

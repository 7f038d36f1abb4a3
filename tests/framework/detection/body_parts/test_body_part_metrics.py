"""What holds for every metric of bodies and parts."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

from framework.detection.body_parts import (
    CrowdHumanAveragePrecision,
    JointAveragePrecision,
    MissMatchingRate,
    PartsAveragePrecision,
)
from tests.helpers.evaluated_people import (
    CLASSES,
    SLOTS,
    Images,
    as_found,
    images,
    truth_of,
    updated,
)

METRICS: list[Callable[..., Any]] = [
    CrowdHumanAveragePrecision,
    MissMatchingRate,
    JointAveragePrecision,
    PartsAveragePrecision,
]
each_metric = pytest.mark.parametrize("metric_class", METRICS)


def values_of(metric_class: Callable, batch: Images, slots: tuple = SLOTS) -> dict[str, float]:
    return scalars(updated(metric_class(CLASSES[: max(slots) + 1], slots), batch).compute())


def scalars(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the numbers, without the curves."""
    assert all(value.dtype == torch.float32 for value in values.values())
    return {name: value.item() for name, value in values.items() if value.ndim == 0}


def assert_same(values: dict[str, float], expected: dict[str, float]) -> None:
    assert values == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert list(values) == list(expected)


def spaced(seed: int) -> Images:
    """Return images of people who overlap by less than half, all kinds of them, as detections."""
    batch = []
    for number in range(3):
        generator = torch.Generator().manual_seed(10 * seed + number)
        x = torch.arange(8.0) * 45 - 12
        height = torch.tensor([66.0, 70, 75, 60, 120, 135, 180, 72])
        jitter = torch.rand(8, 2, generator=generator) * 8
        low = torch.stack([x, torch.full((8,), 240.0) - height], 1) + jitter
        low[7] = torch.tensor([390.0, 200.0])
        width = height * 0.4
        bodies = torch.cat([low, low + torch.stack([width, height], 1)], 1)
        head = torch.stack([low[:, 0], low[:, 1], low[:, 0] + 18, low[:, 1] + height / 5], 1)
        hand = head + height[:, None] / 2 * torch.tensor([0, 1, 0, 1])
        parts = torch.stack([head, hand, hand + torch.tensor([15, 20, 15, 20])], 1)
        visible = torch.rand(8, 3, generator=generator) < 0.7
        hidden = visible & (torch.rand(8, 3, generator=generator) < 0.2)
        ignored = torch.arange(8) % 4 == 2
        truth = truth_of(
            bodies,
            parts * visible[..., None],
            visible=visible & ~hidden,
            part_ignored=hidden,
            visible_ratio=torch.rand(8, generator=generator) * 0.8 + 0.2,
            ignored=ignored,
        )
        batch.append((as_found(truth, SLOTS), truth, number))
    return batch


@pytest.mark.parametrize("seed", range(3))
def test_the_truth_itself_is_perfect(seed: int) -> None:
    batch = spaced(seed)
    crowdhuman = values_of(CrowdHumanAveragePrecision, batch)
    for label, name in enumerate(CLASSES):
        assert crowdhuman[f"{name}_mr"] == 0
        # without interpolation the segment before the first detection is lost
        count = 0
        for _, truth, _ in batch:
            valid = ~truth["ignored"]
            slots = torch.tensor(SLOTS) == label
            seen = truth["visible"] & valid[:, None] & slots
            seen &= (truth["parts"][..., :2] < truth["image_size"]).all(-1)
            count += int(seen.sum() if label else valid.sum())
        assert crowdhuman[f"{name}_ap_crowdhuman"] == pytest.approx((count - 1) / count)
    rates = values_of(MissMatchingRate, batch)
    assert {value for value in rates.values() if not math.isnan(value)} == {0.0}
    assert rates["mmr"] == 0
    assert {*values_of(JointAveragePrecision, batch).values()} == {1.0}
    coco = values_of(PartsAveragePrecision, batch)
    assert {value for value in coco.values() if not math.isnan(value)} == {1.0}
    assert coco["map"] == coco["map_subordinate"] == 1


def of_this_rank(metric_class: Callable, batch: Images, split: list[list[int]]) -> dict:
    return values_of(metric_class, [batch[k] for k in split[dist.get_rank()]])


@pytest.mark.parametrize(
    "split",
    [
        [[0, 2, 4], [1, 3, 5]],
        [[], [5, 4, 3, 2, 1, 0]],
        # images that come twice, on the same rank and on another one
        [[0, 1, 2, 1], [4, 3, 5, 0]],
    ],
)
@each_metric
def test_ranks_do_not_matter(metric_class: Callable, split: list, two_ranks) -> None:
    batch = images(4)
    whole = values_of(metric_class, batch)
    for values in two_ranks(of_this_rank, metric_class, batch, split):
        assert_same(values, whole)


@each_metric
def test_order_and_batches_of_images_do_not_matter(metric_class: Callable) -> None:
    batch = images(5)
    whole = values_of(metric_class, batch)
    assert_same(values_of(metric_class, [batch[k] for k in (3, 0, 5, 2, 4, 1)]), whole)
    assert_same(values_of(metric_class, [*batch, batch[2], batch[0]]), whole)
    metric = metric_class(CLASSES, SLOTS)
    for rows in (batch[:4], [], batch[4:]):
        numbers = torch.tensor([number for *_, number in rows], dtype=torch.int64)
        metric.update([found for found, *_ in rows], [truth for _, truth, _ in rows], numbers)
    assert_same(scalars(metric.compute()), whole)
    metric.reset()
    again = updated(metric, batch).compute()
    assert_same(scalars(again), whole)


@each_metric
def test_order_of_detections_with_distinct_scores_does_not_matter(metric_class: Callable) -> None:
    batch = images(6, tied=False)
    shuffled = []
    for found, truth, number in batch:
        order = torch.randperm(len(found["body"]), generator=torch.Generator().manual_seed(number))
        place = order.argsort()
        moved = {name: value[order] for name, value in found.items()}
        body = moved["body"]
        moved["body"] = torch.where(body < 0, body, place[body.clamp(min=0)])
        shuffled.append((moved, truth, number))
    assert_same(values_of(metric_class, shuffled), values_of(metric_class, batch))


@each_metric
def test_states_may_be_saved(metric_class: Callable) -> None:
    batch = images(3)
    metric = metric_class(CLASSES, SLOTS)
    metric.persistent(True)
    half = updated(metric, batch[:3]).state_dict()
    resumed = metric_class(CLASSES, SLOTS)
    resumed.persistent(True)
    resumed.load_state_dict(half)
    values = updated(resumed, batch[3:]).compute()
    whole = values_of(metric_class, batch)
    assert_same(scalars(values), whole)


@each_metric
def test_no_image_and_nothing_to_find_is_nan(metric_class: Callable) -> None:
    metric = metric_class(CLASSES, SLOTS)
    metric.update([], [], torch.zeros(0, dtype=torch.int64))
    assert all(math.isnan(value) for value in scalars(metric.compute()).values())
    found, truth, number = images(2)[0]
    nobody = {n: v if n == "image_size" else v[:0] for n, v in truth.items()}
    nothing = {name: value[:0] for name, value in found.items()}
    for batch in ([(found, nobody, number)], [(nothing, nobody, number)]):
        assert all(math.isnan(value) for value in values_of(metric_class, batch).values())


@each_metric
def test_nothing_found_is_the_worst(metric_class: Callable) -> None:
    batch = [({n: v[:0] for n, v in found.items()}, *rest) for found, *rest in images(2)]
    values = values_of(metric_class, batch)
    for name, value in values.items():
        if not math.isnan(value):
            assert value == ("_mr" in name or "mmr" in name), name


@each_metric
def test_boxes_that_are_not_finite_are_wrong(metric_class: Callable) -> None:
    truth = truth_of([[0.0, 0, 30, 90], [60.0, 0, 90, 90]])
    found = as_found(truth, (1,))
    found["scores"] = torch.tensor([0.5, 0.6, 0.5, 0.6])
    good = values_of(metric_class, [(found, truth, 0)], (1,))
    found["boxes"][[1, 3]] = math.nan
    bad = values_of(metric_class, [(found, truth, 0)], (1,))
    for name, value in good.items():
        if not math.isnan(value):
            assert bad[name] > value if "_mr" in name or "mmr" in name else bad[name] <= value


@each_metric
def test_bad_input_is_refused(metric_class: Callable) -> None:
    found, truth, number = images(0)[0]
    metric, image = metric_class(CLASSES, SLOTS), torch.tensor([number])
    with pytest.raises(ValueError, match="must be as many, got 1, 1 and 0"):
        metric.update([found], [truth], image[:0])
    with pytest.raises(ValueError, match="An image lacks scores; it has boxes, labels, body"):
        metric.update([{n: v for n, v in found.items() if n != "scores"}], [truth], image)
    with pytest.raises(ValueError, match=r"parts must be \(9, 3, 4\), got \(9, 2, 4\)"):
        metric.update([found], [truth | {"parts": truth["parts"][:, :2]}], image)
    wrong = {name: value[:1] for name, value in found.items()} | {"scores": torch.ones(2)}
    with pytest.raises(ValueError, match=r"scores must be \(1,\), got \(2,\)"):
        metric.update([wrong], [truth], image)
    if "body" in metric_class.found_fields:
        with pytest.raises(ValueError, match=r"body must be in -1\.\.\d+, got 99\.\.99"):
            metric.update([found | {"body": found["body"].clone().fill_(99)}], [truth], image)
    number_like = {"visible": truth["visible"].long()}
    with pytest.raises(ValueError, match=r"visible must be bool, got torch\.int64"):
        metric.update([found], [truth | number_like], image)
    with pytest.raises(ValueError, match=r"labels must be whole numbers, got torch\.float32"):
        metric.update([found | {"labels": found["labels"].float()}], [truth], image)
    with pytest.raises(ValueError, match="bodies must be a tensor, got list"):
        metric.update([found], [truth | {"bodies": truth["bodies"].tolist()}], image)
    with pytest.raises(ValueError, match="must lie on one device, got "):
        metric.update([found | {"labels": found["labels"].to("meta")}], [truth], image)
    assert not metric.images, "nothing of a batch that is refused is kept"
    with pytest.raises(ValueError, match=r"slot_classes must be in 1\.\.2, got \[0, 1\]"):
        metric_class(CLASSES, (0, 1))
    for names in (("body",), ("body", "head", "head")):
        with pytest.raises(ValueError, match="class_names must be distinct"):
            metric_class(names, (1,))

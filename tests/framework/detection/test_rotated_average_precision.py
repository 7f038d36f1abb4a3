"""Mean average precision of oriented detections."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from framework.detection.rotated import cxcywhr_to_quad, rotated_iou, rotated_nms
from framework.detection.rotated_average_precision import RotatedMeanAveragePrecision
from tests.helpers.configs import one_of_many

Images = list[tuple[dict, dict, int]]
SQUARE = torch.tensor([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0]])
CLASSES = 3


def images(count: int = 8, seed: int = 0, spread: float = 0.15) -> Images:
    """Return predictions, targets and numbers of images, with duplicates, misses and ties.

    Class 2 has no objects, and every fifth object is difficult.
    """
    generator = torch.Generator().manual_seed(seed)
    result = []
    for image in range(count):
        objects = 12 if image else 0
        u = torch.rand(objects, 5, generator=generator)
        box = torch.stack(
            [u[:, 0] * 120, u[:, 1] * 120, u[:, 2] * 20 + 20, u[:, 3] * 9 + 6, u[:, 4] * math.pi], 1
        )
        labels = torch.randint(2, (objects,), generator=generator)
        target = {
            "boxes": cxcywhr_to_quad(box),
            "labels": labels,
            "difficult": torch.rand(objects, generator=generator) < 0.2,
        }
        which = torch.randint(max(1, objects), (20,), generator=generator)
        box = torch.cat([box, torch.tensor([[50.0, 50, 30, 10, 0]])])[which]
        box[:, :2] += spread * 10 * torch.randn(20, 2, generator=generator)
        box[:, 4] += spread * torch.randn(20, generator=generator)
        labels = torch.cat([labels, torch.tensor([2])])[which]
        scores = torch.randint(1, 9, (20,), generator=generator) / 10
        preds = {"boxes": cxcywhr_to_quad(box), "labels": labels, "scores": scores}
        result.append((preds, target, 10 * image + 3))
    return result


def metric_of(
    batch: Images, rows: slice | list[int] = slice(None), **arguments
) -> RotatedMeanAveragePrecision:
    metric = RotatedMeanAveragePrecision(CLASSES, **arguments)
    chosen = batch[rows] if isinstance(rows, slice) else [batch[k] for k in rows]
    for preds, target, image in chosen:
        metric.update([preds], [target], torch.tensor([image]))
    return metric


def of_the_kit(batch: Images, label: int, threshold: float, eleven_points: bool) -> float:
    """Evaluate one class as the development kit does, detection by detection."""
    objects, detections, positives = {}, [], 0
    for preds, target, image in batch:
        mine = target["labels"] == label
        boxes, difficult = target["boxes"][mine], target["difficult"][mine].tolist()
        objects[image] = (boxes, difficult, [False] * len(boxes))
        positives += difficult.count(False)
        for box, score, found in zip(preds["boxes"], preds["scores"], preds["labels"], strict=True):
            if found == label:
                detections.append((-score.item(), image, box.flatten().tolist()))
    right, wrong = [], []
    for _, image, corners in sorted(detections):
        boxes, difficult, taken = objects[image]
        right.append(0)
        wrong.append(0)
        overlap = rotated_iou(torch.tensor(corners).view(1, 4, 2).double(), boxes.double())[0]
        if len(boxes) and overlap.max() > threshold:
            best = int(overlap.argmax())
            if difficult[best]:
                continue
            right[-1], wrong[-1] = (0, 1) if taken[best] else (1, 0)
            taken[best] = True
        else:
            wrong[-1] = 1
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    recall, precision = tp / positives, tp / np.maximum(tp + fp, np.finfo(np.float64).eps)
    if eleven_points:
        reached = [precision[recall >= t] for t in np.arange(0.0, 1.1, 0.1)]
        return sum(p.max() / 11 for p in reached if len(p))
    area, before = 0.0, 0.0
    for k, value in enumerate(recall):
        area += (value - before) * precision[k:].max()
        before = value
    return area


@pytest.mark.parametrize("seed", [0, *(one_of_many(seed, quick=False) for seed in (1, 2))])
def test_against_the_development_kit(seed: int) -> None:
    batch = images(seed=seed)
    values = metric_of(batch).compute()
    expected = [of_the_kit(batch, c, 0.5, False) for c in range(2)]
    assert 0.2 < min(expected) < max(expected) < 0.95
    assert values["ap_50"][:2].tolist() == pytest.approx(expected, abs=1e-6)
    eleven = [of_the_kit(batch, c, 0.5, True) for c in range(2)]
    assert eleven != expected
    assert values["map_50_voc07"].item() == pytest.approx(np.mean(eleven), abs=1e-6)
    assert values["map_50_voc12"].item() == pytest.approx(np.mean(expected), abs=1e-6)
    torch.testing.assert_close(values["map_50"], values["map_50_voc12"])
    at_75 = np.mean([of_the_kit(batch, c, 0.75, False) for c in range(2)])
    assert values["map_75"].item() == pytest.approx(at_75, abs=1e-6)
    thresholds = np.arange(0.5, 1.0, 0.05).round(2)
    mean = np.mean([of_the_kit(batch, c, t, False) for c in range(2) for t in thresholds])
    assert values["map"].item() == pytest.approx(mean, abs=1e-6)
    other = metric_of(batch, interpolation="voc07", iou_thresholds=(0.6,)).compute()
    assert other["ap_50"][:2].tolist() == pytest.approx(eleven, abs=1e-6)
    at_60 = np.mean([of_the_kit(batch, c, 0.6, True) for c in range(2)])
    assert other["map"].item() == pytest.approx(at_60, abs=1e-6)


def test_the_objects_themselves_are_perfect() -> None:
    batch = [
        (target | {"scores": torch.ones(len(target["labels"]))}, target, image)
        for _, target, image in images()
    ]
    values = metric_of(batch).compute()
    for name in ("map_50", "map_75", "map", "map_50_voc07", "map_50_voc12"):
        assert values[name] == 1, name
    torch.testing.assert_close(values["ap_50"], torch.tensor([1, 1, math.nan]), equal_nan=True)
    assert (values["precision_50"][:2] == 1).all()
    assert values["precision_50"].shape == values["recall_50"].shape == (3, 101)


def one_image(found: torch.Tensor, objects: torch.Tensor, difficult: list[bool]) -> torch.Tensor:
    """Return ap_50 of detections by descending score, all of class 0."""
    count = len(found)
    preds = {
        "boxes": found,
        "scores": torch.linspace(0.9, 0.1, count),
        "labels": torch.zeros(count, dtype=torch.int64),
    }
    labels = torch.zeros(len(objects), dtype=torch.int64)
    target = {"boxes": objects, "labels": labels, "difficult": torch.tensor(difficult)}
    return metric_of([(preds, target, 0)]).compute()["ap_50"][0]


def test_the_nearest_object_decides_even_if_it_is_taken() -> None:
    # both detections lie nearest to the first object; the second one is left alone
    objects = torch.stack([SQUARE, SQUARE + torch.tensor([2.0, 0.0])])
    found = torch.stack([SQUARE, SQUARE + torch.tensor([0.9, 0.0])])
    assert rotated_iou(found, objects)[1].min() > 0.5
    assert one_image(found, objects, [False, False]) == 0.5
    # the better of two detections in a row, of which the second is wrong and comes too late
    assert one_image(found.flip(0), objects, [False, False]) == 0.5


def test_difficult_objects_neither_count_nor_cost() -> None:
    objects = torch.stack([SQUARE, SQUARE + 30])
    found = torch.stack([SQUARE + 30, SQUARE + 30.5, SQUARE])
    assert one_image(found, objects, [False, True]) == 1
    assert one_image(found, objects, [True, False]) == 1
    assert one_image(found[1:], objects, [False, False]) == 1
    assert one_image(found[:2], objects, [False, True]) == 0
    assert one_image(found, objects, [True, True]).isnan()


def test_only_more_than_the_threshold_is_right() -> None:
    half = SQUARE * torch.tensor([1.0, 0.5])
    assert one_image(half[None], SQUARE[None], [False]) == 0
    assert one_image(half[None] * 1.001, SQUARE[None], [False]) == 1


def test_classes_without_objects_or_without_detections() -> None:
    target = {"boxes": SQUARE[None], "labels": torch.tensor([0])}
    nothing = {"boxes": SQUARE[None, :0].view(0, 4, 2), "scores": torch.zeros(0)}
    nothing["labels"] = torch.zeros(0, dtype=torch.int64)
    wrong = {"boxes": SQUARE[None], "labels": torch.tensor([1]), "scores": torch.ones(1)}
    for preds in (nothing, wrong):
        values = metric_of([(preds, target, 0)]).compute()
        expected = torch.tensor([0, math.nan, math.nan])
        torch.testing.assert_close(values["ap_50"], expected, equal_nan=True)
        assert values["map"] == 0
    metric = RotatedMeanAveragePrecision(CLASSES)
    metric.update([], [], torch.zeros(0, dtype=torch.int64))
    values = metric.compute()
    assert all(v.isnan().all() for name, v in values.items() if name != "recall_50")


def test_boxes_that_are_not_finite_are_wrong() -> None:
    found = torch.stack([SQUARE * math.nan, SQUARE])
    assert one_image(found, SQUARE[None], [False]) == 0.5


@pytest.mark.parametrize("first", [5, 2**55])
def test_objects_of_other_images_are_not_found(first: int) -> None:
    # the second detection lies on the object of the other image; numbers may be hashes
    preds = {
        "boxes": torch.stack([SQUARE, SQUARE + 30]),
        "labels": torch.tensor([0, 0]),
        "scores": torch.tensor([0.9, 0.8]),
    }
    nothing = {name: value[:0] for name, value in preds.items()}
    targets = [{"boxes": SQUARE[None] + k, "labels": torch.tensor([0])} for k in (0, 30)]
    batch = [(preds, targets[0], first), (nothing, targets[1], first + 1)]
    assert metric_of(batch).compute()["ap_50"][0] == 0.5


def tiles(batch: Images) -> Images:
    """Return every image in two overlapping tiles, of which the first brings the objects."""
    result = []
    for preds, target, image in batch:
        x = preds["boxes"][..., 0].mean(1)
        nothing = {name: value[:0] for name, value in target.items()}
        for inside, objects in ((x < 80, target), (x > 40, nothing)):
            part = {name: value[inside] for name, value in preds.items()}
            result.append((part, objects, image))
    return result


def test_tiles_of_an_image_are_merged() -> None:
    batch = images()
    merged = []
    for preds, target, image in batch:
        # without ties the order of equal scores does not matter
        preds["scores"] += torch.rand(20, generator=torch.Generator().manual_seed(image)) / 20
        kept = rotated_nms(preds["boxes"], preds["scores"], 0.3, preds["labels"])
        merged.append(({name: value[kept] for name, value in preds.items()}, target, image))
    whole = metric_of(merged).compute()
    values = metric_of(tiles(batch), merge_iou=0.3).compute()
    for name, value in whole.items():
        torch.testing.assert_close(values[name], value, rtol=0, atol=0, equal_nan=True)
    # duplicates from the overlap are wrong detections
    apart = metric_of(tiles(batch)).compute()["map_50"]
    assert metric_of(batch).compute()["map_50"] > apart
    assert whole["map_50"] > apart


def of_this_rank(batch: Images, split: list[list[int]], merge_iou: float | None) -> dict:
    metric = metric_of(batch, split[dist.get_rank()], merge_iou=merge_iou)
    values = metric.compute()
    # and once more, as after every epoch
    metric.reset()
    for k in split[dist.get_rank()]:
        preds, target, image = batch[k]
        metric.update([preds], [target], torch.tensor([image]))
    for name, value in metric.compute().items():
        assert value.nan_to_num().equal(values[name].nan_to_num())
    return values


@pytest.mark.parametrize(
    "split",
    [
        [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]],
        [[], [*range(10)]],
        [[9, 1, 3], [8, 7, 6, 5, 4, 2, 0]],
    ],
)
@pytest.mark.parametrize("merge_iou", [None, 0.3])
def test_ranks_do_not_matter(split: list, merge_iou: float | None, two_ranks) -> None:
    batch = tiles(images(5))
    whole = metric_of(batch, merge_iou=merge_iou).compute()
    assert 0.1 < whole["map_50"] < 1
    for values in two_ranks(of_this_rank, batch, split, merge_iou):
        for name, value in whole.items():
            torch.testing.assert_close(values[name], value, rtol=0, atol=0, equal_nan=True)


def test_bad_input_is_refused() -> None:
    preds = {"boxes": SQUARE[None], "labels": torch.tensor([3]), "scores": torch.ones(1)}
    target = {"boxes": SQUARE[None], "labels": torch.tensor([0])}
    image = torch.tensor([0])
    metric = RotatedMeanAveragePrecision(CLASSES)
    with pytest.raises(ValueError, match=r"Labels must be in 0\.\.2, got 3\.\.3"):
        metric.update([preds], [target], image)
    with pytest.raises(ValueError, match=r"scores \(n,\), got \(1, 4, 2\) and \(2,\)"):
        metric.update([preds | {"scores": torch.ones(2)}], [target], image)
    with pytest.raises(ValueError, match="must be as many, got 1, 1 and 2"):
        metric.update([preds], [target], torch.tensor([0, 1]))
    for arguments, message in (
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"iou_thresholds": (50,)}, r"iou_thresholds must be in \(0, 1\), got \[50\]"),
        ({"merge_iou": 2.0}, r"merge_iou must lie in \[0, 1\], got 2.0"),
        ({"interpolation": "voc10"}, "got 'voc10'"),
    ):
        with pytest.raises(ValueError, match=message):
            RotatedMeanAveragePrecision(**({"num_classes": 3} | arguments))

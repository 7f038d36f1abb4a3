"""COCO's average precision of parts, and of those that have a body."""

import sys

import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from framework.detection.body_parts import PartsAveragePrecision
from tests.helpers.evaluated_people import CLASSES, SLOTS, Images, as_found, images, updated


def metric_of(batch: Images, **arguments) -> dict[str, float]:
    values = updated(PartsAveragePrecision(CLASSES, SLOTS, **arguments), batch).compute()
    return {name: value.item() for name, value in values.items()}


def of_torchmetrics(batch: Images, label: int, subordinate: bool, most: int) -> dict[str, float]:
    # its own thresholds are rounded to float32
    metric = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        max_detection_thresholds=[1, 2, most],
    )
    metric.warn_on_many_detections = False
    for found, truth, _ in sorted(batch, key=lambda one: one[2]):
        mine = found["labels"] == label
        if subordinate and label:
            mine &= found["body"] >= 0
        preds = {name: found[name][mine] for name in ("boxes", "scores", "labels")}
        ignored = truth["ignored"]
        if label:
            slots = torch.tensor(SLOTS) == label
            seen = truth["visible"] & ~ignored[:, None] & slots
            hidden = (truth["part_ignored"] | (truth["visible"] & ignored[:, None])) & slots
            crowds = torch.cat([truth["parts"][hidden], truth["bodies"][ignored]])
            boxes = torch.cat([truth["parts"][seen], crowds])
            crowd = torch.arange(len(boxes)) >= int(seen.sum())
        else:
            boxes, crowd = truth["bodies"], ignored
        labels = torch.full((len(boxes),), label)
        metric.update([preds], [{"boxes": boxes, "labels": labels, "iscrowd": crowd.long()}])
    values = metric.compute()
    return {name: value.item() for name, value in values.items() if value.numel() == 1}


@pytest.mark.parametrize(("seed", "most"), [(0, 100), (1, 5)])
def test_against_torchmetrics(seed: int, most: int, capsys) -> None:
    batch = images(seed, tied=False)
    values = metric_of(batch, max_detections=most)
    assert capsys.readouterr().out == ""
    for suffix in ("", "_subordinate"):
        mean: dict[str, list[float]] = {}
        for label, name in enumerate(CLASSES):
            expected = of_torchmetrics(batch, label, bool(suffix), most)
            # pycocotools leaves out the mean of another number of detections than 100
            endings = ["_50", "_75", "_small", "_medium", "_large"] + [""] * (most == 100)
            for ending in endings:
                value = expected[f"map{ending}"]
                got = values[f"{name}_ap{suffix}{ending}"]
                if value < 0:
                    assert got != got
                else:
                    assert got == pytest.approx(value, abs=1e-6), (name, suffix, ending)
                    mean.setdefault(ending, []).append(value)
        for ending, column in mean.items():
            assert values[f"map{suffix}{ending}"] == pytest.approx(
                sum(column) / len(column), abs=1e-6
            )
    assert 0.02 < values["map_subordinate"] < values["map"] < 0.9
    assert values["body_ap_subordinate"] == values["body_ap"]


def test_subordinate_leaves_out_parts_without_a_body() -> None:
    batch = []
    for _, truth, number in images(0):
        truth = truth | {"ignored": torch.zeros_like(truth["ignored"])}
        found = as_found(truth, SLOTS)
        found["body"][found["labels"] == 2] = -1
        batch.append((found, truth, number))
    values = metric_of(batch)
    assert values["map"] == 1
    assert values["head_ap_subordinate"] == values["body_ap_subordinate"] == 1
    assert values["hand_ap_subordinate"] == 0
    assert values["map_subordinate"] == pytest.approx(2 / 3)


def test_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setattr("framework.utilities.packages.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trimtab\[detection\]'"):
        PartsAveragePrecision(CLASSES, SLOTS)

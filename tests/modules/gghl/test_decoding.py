"""Decoding: the worked cell, the round trip of targets, and which detections are left."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.detection.rotated import cxcywhr_to_quad, rotated_iou
from modules.gghl.assignment import Assignment, OrientedGaussianAssigner
from modules.gghl.cells import Cells
from modules.gghl.decoding import BOX_CHANNELS, OBJECTNESS, decode, decode_boxes
from tests.helpers.runs import ROOT
from tests.pretended_gpu.device import pretended_gpu

CELLS = Cells.of((160, 160))
DOUBLE = torch.float64


def raw_output(found: Assignment, images: int = 1, classes: int = 3) -> Tensor:
    """What a perfect head would say: the targets, with g as objectness."""
    raw = torch.full((images, len(CELLS.level), BOX_CHANNELS + classes), -20.0, dtype=DOUBLE)
    stride = CELLS.stride[found.cell][:, None]
    heat = found.heat.amax(1, keepdim=True)
    values = [
        (found.distances / stride).log(),
        torch.logit(0.01 + 0.99 * found.s, eps=1e-9),
        6 * found.r[:, None] - 3,
        torch.logit(0.9 * heat),
        torch.where(found.heat > 0, 20.0, -20.0),
    ]
    raw[found.image, found.cell] = torch.cat(values, dim=1)
    return raw


def scene(*boxes: tuple[float, float, float, float, float]) -> Tensor:
    rows = torch.tensor(boxes, dtype=DOUBLE)
    rows[:, 4] = rows[:, 4].deg2rad()
    return cxcywhr_to_quad(rows)[None]


def assign(quads: Tensor, label: list[int]) -> Assignment:
    weight = torch.ones(1, len(label))
    return OrientedGaussianAssigner()(quads, torch.tensor([label]), weight, (160, 160), 3)


def ship(score: float = 0.9, label: int = 0, classes: int = 3, **box: Any) -> Tensor:
    """One cell's output; objectness is the score, its class is certain."""
    values = torch.full((BOX_CHANNELS + classes,), -30.0, dtype=DOUBLE)
    values[:4] = torch.tensor(box.get("l", (1.0, 2.0, 1.0, 2.0)), dtype=DOUBLE).log()
    values[8] = 0.0
    values[OBJECTNESS] = math.log(score / (1 - score))
    values[BOX_CHANNELS + label] = 30.0
    return values


def empty(images: int = 1, classes: int = 3) -> Tensor:
    return torch.full((images, len(CELLS.level), BOX_CHANNELS + classes), -30.0, dtype=DOUBLE)


def test_the_cell_of_the_spec() -> None:
    values = [0.9, 1.0, 0.8, 1.1, -1.0, 0.5, -1.2, 0.4, -0.4, 0.2, -1.0, 0.7, -0.5]
    raw = torch.tensor(values, dtype=DOUBLE)
    center = torch.tensor([13.5, 10.5], dtype=DOUBLE) * 16
    boxes = decode_boxes(raw, center, torch.tensor(16.0, dtype=DOUBLE))
    expected = [39.353650, 43.492509, 35.608655, 48.066656]
    assert boxes.distances.tolist() == pytest.approx(expected, abs=5e-7)
    assert boxes.s.tolist() == pytest.approx([0.261557, 0.618646, 0.223712, 0.594634], abs=5e-7)
    assert float(boxes.r) == pytest.approx(0.433333, abs=5e-7)
    raw = torch.full((1, 13125, 13), -30.0, dtype=DOUBLE)
    raw[0, 10000 + 10 * 50 + 13] = torch.tensor(values, dtype=DOUBLE)
    (found,) = decode(raw, Cells.of((800, 800)), score_threshold=0.1)
    corners = [
        [191.881284, 128.646350],
        [259.492509, 175.021464],
        [239.009594, 203.608655],
        [167.933344, 159.033520],
    ]
    torch.testing.assert_close(
        found["boxes"], torch.tensor([corners], dtype=DOUBLE), atol=5e-7, rtol=0
    )
    assert found["labels"].tolist() == [1]
    assert float(found["scores"]) == pytest.approx(1 / (1 + math.exp(-0.2)) / (1 + math.exp(-0.7)))


def test_zero_is_reached_exactly_and_half_precision_does_not_overflow() -> None:
    raw = torch.full((13,), -1000.0)
    boxes = decode_boxes(raw, torch.zeros(2), torch.tensor(8.0))
    assert boxes.s.tolist() == [0.0] * 4
    assert float(boxes.r) == 0.0
    assert boxes.distances.tolist() == pytest.approx([8 * math.exp(-10)] * 4)
    boxes = decode_boxes(-raw, torch.zeros(2), torch.tensor(8.0))
    assert boxes.distances.tolist() == pytest.approx([8 * math.exp(8)] * 4)
    assert float(boxes.r) == 1.0
    for dtype in (torch.float16, torch.bfloat16):
        half = empty().to(dtype)
        half[0, 44] = 60.0
        (found,) = decode(half, CELLS, score_threshold=0.5)
        assert found["boxes"].dtype == found["scores"].dtype == torch.float32
        corners = [[0.0, 0.0], [160.0, 0.0], [160.0, 160.0], [0.0, 160.0]]
        assert found["boxes"].tolist() == [corners]


def test_a_large_area_ratio_makes_a_box_horizontal() -> None:
    raw = torch.tensor([0.0, 2.3999, 2.4001]).double()[:, None].expand(3, 13).clone()
    boxes = decode_boxes(raw, torch.zeros(3, 2), torch.ones(3))
    assert boxes.r.tolist() == pytest.approx([0.5, 0.9, 0.9], abs=1e-4)
    assert boxes.s.gt(0).all(1).tolist() == [True, True, False]
    assert not boxes.s[2].any()
    boxes = decode_boxes(raw, torch.zeros(3, 2), torch.ones(3), horizontal=0.8)
    assert boxes.s.gt(0).all(1).tolist() == [True, False, False]
    boxes = decode_boxes(raw, torch.zeros(3, 2), torch.ones(3), oriented=False)
    assert not boxes.s.any()
    assert boxes.r.tolist() == [1.0] * 3


def test_decoded_targets_are_the_objects() -> None:
    quads = scene((30, 40, 40, 14, 25), (100, 60, 60, 20, 100), (60, 120, 30, 25, 70))
    found = assign(quads, [0, 2, 1])
    raw = raw_output(found)
    (detected,) = decode(raw, CELLS, nms_iou=0.3)
    assert sorted(detected["labels"].tolist()) == [0, 1, 2]
    by_label = torch.stack([detected["boxes"][detected["labels"] == c][0] for c in (0, 2, 1)])
    ious = rotated_iou(by_label, quads[0], aligned=True)
    torch.testing.assert_close(ious, torch.ones_like(ious), atol=1e-6, rtol=0)
    assert torch.equal(detected["scores"], detected["scores"].sort(descending=True).values)
    # as horizontal boxes they are those of the objects
    (flat,) = decode(raw, CELLS, nms_iou=0.3, oriented=False)
    (same,) = decode(raw, CELLS, nms_iou=0.3, horizontal=0.1)
    assert torch.equal(flat["boxes"], same["boxes"])
    for label, quad in zip((0, 2, 1), quads[0], strict=True):
        box = flat["boxes"][flat["labels"] == label][0]
        torch.testing.assert_close(box.amin(0), quad.amin(0))
        torch.testing.assert_close(box.amax(0), quad.amax(0))
        assert torch.equal(box[:, 0].unique(), torch.stack([box[:, 0].min(), box[:, 0].max()]))


def test_boxes_of_one_class_suppress_each_other_and_other_classes_stay() -> None:
    raw = empty(images=2)
    # neighbors with the same box: column 4 and 5 of row 4 on the first level
    left, right = 4 * 20 + 4, 4 * 20 + 5
    raw[0, left], raw[0, right] = ship(0.8, l=(1, 3, 1, 2)), ship(0.9, l=(1, 2, 1, 3))
    raw[1, left], raw[1, right] = ship(0.8, 1, l=(1, 3, 1, 2)), ship(0.9, 2, l=(1, 2, 1, 3))
    one, two = decode(raw, CELLS, score_threshold=0.2)
    assert one["labels"].tolist() == [0]
    assert one["scores"].tolist() == pytest.approx([0.9])
    assert two["labels"].tolist() == [2, 1]
    assert two["scores"].tolist() == pytest.approx([0.9, 0.8])
    torch.testing.assert_close(two["boxes"][0], two["boxes"][1])
    both = decode(raw, CELLS, score_threshold=0.2, nms_iou=1.0)[0]
    assert len(both["boxes"]) == 2


def test_scores_thresholds_and_limits() -> None:
    raw = empty()
    # four boxes apart from one another
    for place, score in zip((0, 8, 16, 168), (0.5, 0.9, 0.04, 0.7), strict=True):
        raw[0, place] = ship(score, l=(0.5, 0.5, 0.5, 0.5))

    def scores(**arguments: Any) -> list[float]:
        return decode(raw, CELLS, **arguments)[0]["scores"].tolist()

    assert scores() == pytest.approx([0.9, 0.7, 0.5, 0.04])
    assert scores(score_threshold=0.04001) == pytest.approx([0.9, 0.7, 0.5])
    # the threshold is that of the product, whatever is reported
    roots = [math.sqrt(score) for score in (0.9, 0.7, 0.5)]
    assert scores(score_threshold=0.05, score_mode="sqrt") == pytest.approx(roots)
    assert scores(max_detections=2) == scores(pre_nms_top_k=2) == pytest.approx([0.9, 0.7])
    assert scores(max_detections=0) == []


def test_the_score_is_objectness_times_the_most_likely_class() -> None:
    raw = empty()
    raw[0, 44] = ship(0.5)
    raw[0, 44, BOX_CHANNELS:] = torch.tensor([0.0, math.log(3), -1.0])
    (found,) = decode(raw, CELLS)
    assert found["labels"].tolist() == [1]
    assert found["scores"].tolist() == pytest.approx([0.5 * 0.75])


def test_boxes_are_clipped_to_the_image_and_those_outside_dropped() -> None:
    cells = Cells.of((150, 100))
    raw = torch.full((1, len(cells.level), 13), -30.0, dtype=DOUBLE)
    # the last cell of the first row of each level; that of level 2 is centered at x = 112
    last = [12, 19 * 13 + 6, 19 * 13 + 10 * 7 + 3]
    assert cells.center[last].tolist() == [[100.0, 4.0], [104.0, 8.0], [112.0, 16.0]]
    raw[0, last[0]] = ship(0.9, l=(9, 9, 30, 3))
    raw[0, last[1]] = ship(0.8, 1, l=(0.1, 3, 0.1, 0.2))
    raw[0, last[2]] = ship(0.7, 2, l=(0.1, 3, 0.1, 0.5))
    (found,) = decode(raw, cells)
    assert found["labels"].tolist() == [0, 2]
    expected = torch.tensor([[76.0, 0], [100, 0], [100, 150], [76, 150]], dtype=DOUBLE)
    torch.testing.assert_close(found["boxes"][0], expected)
    assert float(found["boxes"][1, :, 0].min()) == pytest.approx(96)
    assert float(found["boxes"][1, :, 0].max()) == pytest.approx(100)


def test_no_detections() -> None:
    for images in (0, 2):
        found = decode(empty(images), CELLS)
        assert len(found) == images
        for image in found:
            assert image["boxes"].shape == (0, 4, 2)
            assert image["scores"].shape == image["labels"].shape == (0,)
            assert image["labels"].dtype == torch.int64
    raw = empty()
    raw[0, 3] = math.nan
    assert len(decode(raw, CELLS)[0]["boxes"]) == 0


def crowd(images: int) -> Tensor:
    """Overlapping boxes at many cells of every image, some of equal score."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(images, len(CELLS.level), BOX_CHANNELS + 3, generator=generator)
    raw[..., OBJECTNESS] = raw[..., OBJECTNESS].mul(4).round() / 4
    return raw


@pytest.mark.parametrize("top", [40, 2000])
def test_images_do_not_see_one_another(top: int) -> None:
    raw, limits = crowd(3), {"pre_nms_top_k": top, "max_detections": 30, "nms_iou": 0.2}
    raw[1] = -30.0
    together = decode(raw, CELLS, **limits)
    assert len(together[0]["scores"]) > 0
    assert [len(found["scores"]) for found in together[1:]] == [0, 30]
    for row, found in enumerate(together):
        (alone,) = decode(raw[row : row + 1], CELLS, **limits)
        torch.testing.assert_close(found, alone)
        assert found["scores"].diff().le(0).all()


def test_a_gpu_is_not_waited_for_once_an_image() -> None:
    waits = []
    for images in (1, 6):
        with pretended_gpu(ROOT) as gpu:
            raw = crowd(images).cuda()
            cells = Cells.of((160, 160), device="cuda")
            before = gpu.log.count("wait")
            decode(raw, cells)
            waits.append(gpu.log.count("wait") - before)
    assert waits[0] == waits[1]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 525, 10 \+ classes\)"):
        decode(empty()[:, 1:], CELLS)
    with pytest.raises(ValueError, match=r"must be \(B, 525, 10 \+ classes\)"):
        decode(empty()[..., :10], CELLS)
    with pytest.raises(ValueError, match="score_mode must be one of"):
        decode(empty(), CELLS, score_mode="mean")  # type: ignore[arg-type]


def test_boxes_end_where_the_picture_in_a_tile_does():
    cells = Cells.of((32, 32))
    raw = torch.full((2, 21, 12), -9.0)
    # cells of the finest level: a box of 16 pixels around (20, 4), one around (4, 28)
    for cell in (2, 12):
        raw[:, cell] = torch.tensor([0, 0, 0, 0, -9, -9, -9, -9, 3, 4, -2, 4.0])
    whole = decode(raw, cells)
    part = decode(raw, cells, extent=torch.tensor([[32.0, 32.0], [24.0, 20.0]]))
    assert len(part[0]["scores"]) == len(whole[0]["scores"]) == 2
    (box,) = part[1]["boxes"]
    assert box.amax(0).tolist() == [24.0, 12.0]

"""Decoding: raw 0, the range and its inverse, and detection against a loop over images."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from modules.bpjdet.anchor_grid import AnchorGrid
from modules.bpjdet.decoding import contact_states, decode, detect
from tests.modules.bpjdet.crowds import ANCHORS, STRIDES

GRID = AnchorGrid.of((128, 96), ANCHORS, STRIDES)


def at(grid: AnchorGrid = GRID) -> tuple[Tensor, Tensor, Tensor]:
    return grid.cell, grid.stride, grid.anchor


def test_the_order_is_level_anchor_row_column():
    assert GRID.shapes == ((16, 12), (8, 6), (4, 3))
    assert len(GRID) == sum(GRID.sizes) == 3 * (16 * 12 + 8 * 6 + 4 * 3)
    place = 3 * 16 * 12 + (2 * 8 + 5) * 6 + 4
    assert GRID.cell[place].tolist() == [4, 5]
    assert GRID.stride[place] == 16
    assert torch.equal(GRID.anchor[place], ANCHORS[1, 2])
    # as a head's map comes into it
    maps = [torch.randn(2, 3 * 9, *shape) for shape in GRID.shapes]
    raw = torch.cat([m.unflatten(1, (3, -1)).movedim(2, -1).flatten(1, 3) for m in maps], 1)
    assert torch.equal(raw[:, place], maps[1][:, 18:, 5, 4])


def test_raw_zero_is_the_anchor_in_the_middle_of_its_cell():
    found = decode(torch.zeros(len(GRID), 11), *at(), num_classes=2, num_slots=2)
    corner = GRID.cell * GRID.stride[:, None]
    center = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert torch.equal(center, corner + GRID.stride[:, None] / 2)
    assert torch.equal(found.boxes[:, 2:] - found.boxes[:, :2], GRID.anchor)
    assert torch.equal(found.points, corner[:, None].expand(-1, 2, 2))
    assert torch.equal(found.scores, torch.full((len(GRID),), 0.25))


def test_points_reach_two_anchors_and_boxes_four():
    cell, stride, anchor = torch.zeros(2), torch.tensor(8.0), torch.tensor([10.0, 20.0])
    for raw, sign in ((50.0, 1), (-50.0, -1)):
        whole = torch.full((7,), raw, dtype=torch.float64)
        found = decode(whole, cell, stride, anchor, num_classes=2, num_slots=0)
        if sign > 0:
            assert (found.boxes[2:] - found.boxes[:2]).tolist() == [40, 80]
            assert ((found.boxes[2:] + found.boxes[:2]) / 2).tolist() == [12, 12]
        else:
            assert ((found.boxes[2:] + found.boxes[:2]) / 2).tolist() == [-4, -4]
        found = decode(torch.full((8,), raw), cell, stride, anchor, num_classes=1, num_slots=1)
        assert found.points.tolist() == [[sign * 20, sign * 40]]


def test_the_inverse_of_points():
    anchor = torch.tensor([10.0, 20.0], dtype=torch.float64)
    offset = torch.tensor([[-19.0, 3.5], [7, -39]], dtype=torch.float64)
    raw = torch.zeros(2, 8, dtype=torch.float64)
    raw[:, 6:] = torch.logit((offset / anchor + 2) / 4)
    stride = torch.full((2,), 8, dtype=torch.float64)
    cell = torch.tensor([[3.0, 5], [0, 1]], dtype=torch.float64)
    found = decode(raw, cell, stride, anchor.expand(2, 2), num_classes=1, num_slots=1)
    torch.testing.assert_close(found.points[:, 0], cell * 8 + offset, rtol=1e-13, atol=1e-12)


def outputs(seed: int, images: int = 3, channels: int = 12, grid: AnchorGrid = GRID) -> Tensor:
    raw = torch.randn(images, len(grid), channels, generator=torch.Generator().manual_seed(seed))
    raw[..., 4] -= 1
    return raw


def loop(raw, classes, slots, thresholds, most):
    """Return the detections of one image, each class by itself."""
    found = decode(raw, *at(), num_classes=classes, num_slots=slots)
    kept = []
    for is_part, (least, overlap) in enumerate(thresholds):
        mine = []
        for label in range(classes):
            if (label > 0) != bool(is_part):
                continue
            rows = ((found.labels == label) & (found.scores > least)).nonzero().squeeze(1).tolist()
            rows.sort(key=lambda row: -float(found.scores[row]))
            stays = []
            for row in rows:
                box = found.boxes[row].double()
                others = found.boxes[stays].double()
                if not stays or box_iou(box[None], others).max() <= overlap:
                    stays.append(row)
            mine += stays
        kept += sorted(mine, key=lambda row: -float(found.scores[row]))[:most]
    kept.sort(key=lambda row: -float(found.scores[row]))
    return {
        "boxes": found.boxes[kept],
        "scores": found.scores[kept],
        "labels": found.labels[kept],
        "points": found.points[kept],
    }


@pytest.mark.parametrize("most", [300, 4])
def test_detections_are_those_of_a_loop(most):
    raw = outputs(0)
    arguments = {"body_score": 0.3, "body_iou": 0.6, "part_score": 0.35, "part_iou": 0.3}
    found = detect(raw, GRID, 3, 2, **arguments, max_detections=most)
    assert len(found) == 3
    for image, mine in zip(raw, found, strict=True):
        expected = loop(image, 3, 2, ((0.3, 0.6), (0.35, 0.3)), most)
        assert set(mine) == set(expected)
        assert set(mine["labels"].tolist()) == {0, 1, 2}
        for name, value in expected.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=1e-4)
        assert (mine["scores"].diff() <= 0).all()


def test_an_image_does_not_depend_on_its_batch():
    raw = outputs(1, images=12)
    together = detect(raw, GRID, 3, 2, body_score=0.2, part_score=0.2)
    for image, whole in zip(raw, together, strict=True):
        (alone,) = detect(image[None], GRID, 3, 2, body_score=0.2, part_score=0.2)
        for name, value in whole.items():
            torch.testing.assert_close(alone[name], value, rtol=1e-6, atol=1e-5)


def test_the_best_candidates_alone_are_looked_at():
    raw = outputs(2, images=2)
    found = detect(raw, GRID, 3, 2, part_score=1, body_iou=1, pre_nms_top_k=7)
    every = detect(raw, GRID, 3, 2, part_score=1, body_iou=1)
    for few, many in zip(found, every, strict=True):
        assert len(few["scores"]) == 7 < len(many["scores"])
        assert torch.equal(few["scores"], many["scores"][:7])


def test_nothing_found_keeps_the_shapes():
    raw = torch.full((2, len(GRID), 20), -9.0)
    for found in detect(raw, GRID, 2, 2, num_states=9):
        assert {name: tuple(value.shape) for name, value in found.items()} == {
            "boxes": (0, 4),
            "scores": (0,),
            "labels": (0,),
            "points": (0, 2, 2),
            "states": (0, 9),
        }
    assert detect(raw[:0], GRID, 2, 2, num_states=9) == []


def test_half_precision_is_decoded_in_float32():
    raw = outputs(3)
    whole = detect(raw.bfloat16().float(), GRID, 3, 2)
    for half, one in zip(detect(raw.bfloat16(), GRID, 3, 2), whole, strict=True):
        assert half["boxes"].dtype == torch.float32
        torch.testing.assert_close(half["boxes"], one["boxes"], rtol=1e-6, atol=1e-5)


def test_a_part_reads_its_own_first_states_and_those_of_its_slot():
    states = torch.rand(4, 8)
    found = {
        "states": states,
        "body": torch.tensor([-1, 0, 0, -1]),
        "slot": torch.tensor([-1, 1, 0, -1]),
    }
    fused = contact_states(found)
    assert torch.equal(fused[[0, 3]], states[[0, 3], :4])
    torch.testing.assert_close(fused[1], 0.4 * states[0, 4:] + 0.6 * states[1, :4])
    torch.testing.assert_close(fused[2], 0.4 * states[0, :4] + 0.6 * states[2, :4])


def test_an_output_of_another_image_is_refused():
    with pytest.raises(ValueError, match=r"must be \(B, 756, 12\) for an image of \(128, 96\)"):
        detect(torch.zeros(1, 700, 12), GRID, 3, 2)

"""Assignment: the worked example, a plain loop, and what must not depend on what."""

import math
from dataclasses import fields

import pytest
import torch

from modules.bpjdet.anchor_grid import AnchorGrid
from modules.bpjdet.assignment import AnchorAssigner, Assignment, unreachable_points
from tests.modules.bpjdet.crowds import ANCHORS, STRIDES, WORKED, crowd, people, worked_example

NAMES = [field.name for field in fields(Assignment)]


def loop(batch, slot_classes, size, anchors, strides, ratio=4.0, offset=0.5):
    """Return image, level, anchor's size, row, column, class, box, points, mask of positives."""
    found = []
    for b, number in enumerate(batch["num_people"].tolist()):
        for m in range(number):
            if batch["ignored"][b, m]:
                continue
            body = batch["bodies"][b, m].tolist()
            parts = batch["parts"][b, m].tolist()
            learned = (batch["visible"] & ~batch["part_ignored"])[b, m].tolist()
            center = lambda box: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)  # noqa: E731
            none, slots = (0.0, 0.0), range(len(slot_classes))
            objects = [(0, body, [center(p) for p in parts], learned)]
            for k in slots:
                if learned[k]:
                    back = [center(body) if n == 0 else none for n in slots]
                    objects.append((slot_classes[k], parts[k], back, [n == 0 for n in slots]))
            for label, box, points, mask in objects:
                w, h = box[2] - box[0], box[3] - box[1]
                if w <= 0 or h <= 0:
                    continue
                for level, s in enumerate(strides):
                    rows, columns = math.ceil(size[0] / s), math.ceil(size[1] / s)
                    x, y = (value / s for value in center(box))
                    for aw, ah in anchors[level].tolist():
                        if not max(w / aw, aw / w, h / ah, ah / h) < ratio:
                            continue
                        cells = [(math.floor(x), math.floor(y))]
                        i, j = cells[0]
                        if x % 1 < offset and x > 1:
                            cells.append((i - 1, j))
                        if y % 1 < offset and y > 1:
                            cells.append((i, j - 1))
                        if 0 < (columns - x) % 1 < offset and columns - x > 1:
                            cells.append((i + 1, j))
                        if 0 < (rows - y) % 1 < offset and rows - y > 1:
                            cells.append((i, j + 1))
                        for i, j in cells:
                            if not (0 <= i < columns and 0 <= j < rows):
                                continue
                            shifted = [
                                [px / s - i, py / s - j] if known else [0.0, 0.0]
                                for (px, py), known in zip(points, mask, strict=True)
                            ]
                            box_target = [x - i, y - j, w / s, h / s]
                            row = (b, level, [aw, ah], j, i, label, box_target, shifted, mask)
                            found.append(row)
    return sorted(found)


def rows(found, size, anchors, strides):
    """Return an assignment in the form of ``loop``."""
    grid = AnchorGrid.of(size, anchors, strides)
    i, j = grid.cell[found.prediction].long().unbind(1)
    anchor = grid.anchor[found.prediction]
    columns = (found.image, found.level, anchor, j, i, found.label, found.box, found.points)
    return sorted(zip(*(c.tolist() for c in (*columns, found.mask)), strict=True))


def test_the_worked_example():
    found = AnchorAssigner(WORKED, strides=(16,))(worked_example(), (1,), (640, 640))
    grid = AnchorGrid.of((640, 640), WORKED, strides=(16,))
    body = found.label == 0
    assert body.sum() == 6
    cells = grid.cell[found.prediction[body]]
    assert sorted(map(tuple, cells.tolist())) == [(18, 17)] * 3 + [(19, 17)] * 3
    own = (cells[:, 0] == 18).nonzero().squeeze(1)
    assert found.box[body][own[0]].tolist() == [0.75, 0.5, 5.625, 10.0]
    assert found.points[body][own].tolist() == [[[1.0625, -3.5625]]] * 3
    beside = (cells[:, 0] == 19).nonzero().squeeze(1)
    assert found.points[body][beside].tolist() == [[[0.0625, -3.5625]]] * 3
    assert found.anchor_size[:2].tolist() == [[6.0, 4.25]] * 2
    assert grid.anchor[found.prediction[body]][own].tolist() == WORKED[0].tolist()
    assert torch.equal(found.anchor_size, grid.anchor[found.prediction].double() / 16)


def test_the_head_of_the_worked_example_matches_small_anchors_and_points_at_its_body():
    found = AnchorAssigner(WORKED, strides=(16,))(worked_example(), (1,), (640, 640))
    head = found.label == 1
    assert found.anchor_size[head].unique(dim=0).tolist() == [[6.0, 4.25]]
    own = found.box[head][:, :2] == torch.tensor([0.0625, 0.4375])
    # the body's center (18.75, 17.5) from the cell (19, 13)
    assert found.points[head][own.all(1)].tolist() == [[[-0.25, 4.5]]]
    on_p3 = AnchorAssigner(ANCHORS[:1], strides=(8,))(worked_example(), (1,), (640, 640))
    assert len(on_p3.anchor_size[on_p3.label == 1].unique(dim=0)) == 3


@pytest.mark.parametrize("seed", range(12))
def test_the_loop_finds_the_same(seed):
    slot_classes = [(1, 1), (1, 2, 3), (), (1,)][seed % 4]
    batch, size = crowd(seed, slots=len(slot_classes)), [(256, 256), (200, 250)][seed % 2]
    found = AnchorAssigner(ANCHORS, STRIDES)(batch, slot_classes, size)
    expected = loop(batch, slot_classes, size, ANCHORS, STRIDES)
    assert rows(found, size, ANCHORS, STRIDES) == expected
    assert len(expected) > 0
    for b in range(3):
        for level in range(3):
            mine = [row for row in expected if row[:2] == (b, level)]
            assert found.positives[b, level] == len(mine)
            assert found.visible[b, level] == sum(sum(row[8]) for row in mine)


def test_every_center_is_within_reach_and_every_object_has_at_most_three_cells():
    batch = crowd(3, images=8, most=20)
    found = AnchorAssigner(ANCHORS, STRIDES)(batch, (1, 1), (256, 256))
    assert (found.box[:, :2] >= -0.5).all()
    assert (found.box[:, :2] <= 1.5).all()
    grid = AnchorGrid.of((256, 256), ANCHORS, STRIDES)
    center = found.box[:, :2] + grid.cell[found.prediction]
    # no two objects have the same place and size
    key = torch.cat([found.image[:, None], found.anchor_size, center, found.box[:, 2:]], 1)
    counts = key.unique(dim=0, return_counts=True)[1]
    assert set(counts.tolist()) == {1, 2, 3}
    only = people(torch.tensor([[[80.0, 80, 176, 176]]]), torch.zeros(1, 1, 0, 4))
    at_corner = AnchorAssigner(torch.tensor([[[90.0, 90]]]), (8,))(only, (), (256, 256))
    grid = AnchorGrid.of((256, 256), torch.tensor([[[90.0, 90]]]), (8,))
    cells = grid.cell[at_corner.prediction].tolist()
    assert sorted(cells) == [[15.0, 16.0], [16.0, 15.0], [16.0, 16.0]]


def test_half_a_cell_has_no_neighbor_and_four_anchors_do_not_match():
    def cells(*box):
        batch = people(torch.tensor([[box]]), torch.zeros(1, 1, 0, 4))
        return len(AnchorAssigner(torch.tensor([[[16.0, 16]]]), (8,))(batch, (), (64, 64)).image)

    assert cells(20.0, 20, 36, 36) == 1
    assert cells(19.0, 20, 35, 36) == 2
    assert cells(21.0, 21, 37, 37) == 3
    assert cells(-4.0, 28, 60, 44) == 0
    assert cells(-3.5, 28, 59.5, 44) > 0


def test_an_image_does_not_depend_on_its_batch():
    batch = crowd(1)
    assigner = AnchorAssigner(ANCHORS, STRIDES)
    whole = assigner(batch, (1, 2), (256, 256))
    for b in range(3):
        alone = assigner({name: value[[b]] for name, value in batch.items()}, (1, 2), (256, 256))
        mine = whole.image == b
        for name in NAMES:
            value = getattr(whole, name)
            if name == "image":
                continue
            expected = value[[b]] if name in ("positives", "visible") else value[mine]
            assert torch.equal(getattr(alone, name), expected), name


def test_no_people_give_no_positives():
    batch = people(torch.zeros(2, 1, 4), torch.zeros(2, 1, 1, 4), torch.zeros(2).long())
    found = AnchorAssigner(ANCHORS, STRIDES)(batch, (1,), (256, 256))
    assert len(found.image) == 0
    assert found.positives.tolist() == [[0, 0, 0]] * 2
    assert unreachable_points(found) == 0


def test_it_moves_by_one_copy_and_tells_lightning_its_size():
    found = AnchorAssigner(ANCHORS, STRIDES)(crowd(0), (1, 2), (256, 256))
    assert {getattr(found.to("meta"), name).device.type for name in NAMES} == {"meta"}
    assert [len(part) for part in found] == [3]


def test_states_stand_slot_by_slot_for_bodies_and_first_for_hands():
    hands = torch.tensor([[[[270.0, 240, 300, 270], [310, 240, 340, 270]]]])
    states = torch.tensor([[[[0, 1, 2, 0], [1, 1, 0, 2]]]])
    body = torch.tensor([[[255.0, 200, 345, 360]]])
    batch = people(body, hands, states=states)
    found = AnchorAssigner(ANCHORS, STRIDES)(batch, (1, 1), (640, 640))
    assert found.states[found.label == 0].unique(dim=0).tolist() == [[0, 1, 2, 0, 1, 1, 0, 2]]
    of_hands = found.states[found.label == 1].unique(dim=0).tolist()
    assert of_hands == [[0, 1, 2, 0, 2, 2, 2, 2], [1, 1, 0, 2, 2, 2, 2, 2]]


def test_unreachable_points_are_those_beyond_two_anchors():
    found = AnchorAssigner(ANCHORS, STRIDES)(crowd(5), (1, 2), (256, 256))
    far = seen = 0
    for size, points, mask in zip(found.anchor_size, found.points, found.mask, strict=True):
        for point in points[mask]:
            seen += 1
            far += bool((point.abs() >= 2 * size).any())
    assert 0 < far < seen
    assert unreachable_points(found) == far


def test_what_does_not_fit_is_refused():
    assigner = AnchorAssigner(ANCHORS, STRIDES)
    with pytest.raises(ValueError, match=r"slot_classes has 1 classes, but people have 2 slots\."):
        assigner(crowd(0), (1,), (256, 256))
    with pytest.raises(ValueError, match=r"anchors must be \(1, A, 2\)"):
        AnchorAssigner(ANCHORS, (8,))
    with pytest.raises(ValueError, match="strides must be ascending"):
        AnchorAssigner(ANCHORS, (8, 32, 16))
    with pytest.raises(ValueError, match="ratio must lie in"):
        AnchorAssigner(ANCHORS, STRIDES, ratio=1)

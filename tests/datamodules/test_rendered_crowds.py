"""Drawn crowds: their labels, their parts and their files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from datamodules.crowd_rendering import (
    LEAST_OF_BODY,
    LEAST_OF_PART,
    _place,
    render_crowd,
    seen_shares,
)
from datamodules.drawing import SUPERSAMPLING
from datamodules.rendered_crowds import RenderedCrowds
from framework.detection.body_parts.people import NAMES
from framework.detection.pictures import read_picture

SIZE = 128


@pytest.fixture(scope="module")
def crowds():
    return [render_crowd(seed, SIZE, height=(25, 90)) for seed in range(50)]


def ready(stage="fit", **arguments):
    sizes = {"num_train": 8, "num_val": 3, "num_test": 2, "image_size": 96, "batch_size": 4}
    data = RenderedCrowds(**{**sizes, **arguments})
    data.setup(stage)
    return data


def share_inside(parts, bodies):
    low = torch.maximum(parts[:, None, :2], bodies[:, :2])
    high = torch.minimum(parts[:, None, 2:], bodies[:, 2:])
    return (high - low).clamp(min=0).prod(-1) / (parts[:, 2:] - parts[:, :2]).prod(-1)[:, None]


def test_heads_lie_inside_several_bodies(crowds):
    shared = []
    for _, people in crowds:
        heads = people.parts[people.visible[:, 0], 0]
        shared.append((share_inside(heads, people.bodies) > 0.999).sum(1) >= 2)
    assert torch.cat(shared).float().mean() > 0.25


def test_labels_are_what_was_said(crowds):
    numbers = [len(people) for _, people in crowds]
    assert min(numbers) >= 1
    assert 6 <= max(numbers) <= 8, "some are hidden"
    ratio = torch.cat([people.visible_ratio for _, people in crowds])
    assert ratio.min() >= LEAST_OF_BODY
    assert ratio.max() == 1
    leaving = 0
    for _, people in crowds:
        body, parts, visible = people.bodies[:, None], people.parts, people.visible
        assert parts[~visible].eq(0).all()
        inside = (parts[..., :2] >= body[..., :2]) & (parts[..., 2:] <= body[..., 2:])
        assert inside[visible].all(), "a body's box holds its parts"
        assert (visible[:, 1] | ~visible[:, 2]).all(), "a single hand is the first one"
        both = visible[:, 1] & visible[:, 2]
        assert (parts[both, 1, 0] <= parts[both, 2, 0]).all()
        leaving += int(((people.bodies < 0) | (people.bodies > SIZE)).sum())
    assert leaving > 10, "boxes are those of whole persons"
    hands = torch.cat([people.visible[:, 1:] for _, people in crowds]).float().mean()
    assert 0.5 < hands < 0.95


def covered(corners, x, y):
    """Return which points lie inside a convex polygon, either way round."""
    after = np.roll(corners, -1, 0)
    side = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(corners, after, strict=True)
    ]
    return (np.min(side, 0) >= 0) | (np.max(side, 0) <= 0)


def test_seen_shares_are_those_of_points_in_polygons():
    size = 64
    rng = np.random.Generator(np.random.PCG64(3))
    persons = _place(rng, size, 5, (40, 60))
    bodies, parts = seen_shares(persons, size)
    # points around the picture too, which count for whole persons
    grid = (np.arange(-size, 3 * size) + 0.5) / SUPERSAMPLING
    x, y = np.meshgrid(grid, grid)
    owner = np.zeros((len(grid), len(grid)), dtype=int)
    whole = np.zeros((len(persons), 4))
    for number, person in enumerate(persons):
        alone = np.zeros((4, *owner.shape), dtype=bool)
        for polygon in person.polygons:
            inside = covered(polygon.corners, x, y)
            owner[inside] = 1 + 4 * number + polygon.part
            alone[0] |= inside
            if polygon.part:
                alone[polygon.part] |= inside
        whole[number] = alone.sum((1, 2))
    in_picture = (x > 0) & (x < size) & (y > 0) & (y < size)
    seen = np.bincount(owner[in_picture], minlength=1 + 4 * len(persons))[1:].reshape(-1, 4)
    assert np.abs(seen.sum(1) / whole[:, 0] - bodies).max() < 0.03
    # a hand has some 70 pixels, and borders belong to one side or the other
    assert np.abs(seen[:, 1:] / whole[:, 1:] - parts).max() < 0.1
    assert bodies.min() < 0.5 < bodies.max()
    assert parts.min() < LEAST_OF_PART < parts.max()


def test_batches():
    data = ready()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 96, 96)
    assert 0 <= batch["image"].min() < 0.3 < 0.7 < batch["image"].max() <= 1
    assert batch["bodies"].shape == (4, int(batch["num_people"].max()), 4)
    assert data.test_dataloader() == []
    assert len(ready("predict").predict_set) == 2
    assert data.object_counts["body"] == len(data.train_set.people.rows)


def test_a_crowd_depends_on_seed_part_and_number_alone():
    few, many = ready(num_train=3), ready(num_train=5, num_val=4)
    assert torch.equal(few.train_set.image, many.train_set.image[:3])
    assert torch.equal(few.val_set.image, many.val_set.image[:3])
    for name in NAMES:
        assert torch.equal(few.train_set[2][name], many.train_set[2][name])
    assert not torch.equal(few.train_set.image, few.val_set.image), "disjoint parts"
    assert not torch.equal(few.train_set.image, ready(num_train=3, scene_seed=1).train_set.image)


def test_larger_pictures_have_taller_persons():
    def height(size):
        rows = ready("test", image_size=size, num_test=20).test_set.people.rows
        return (rows.bodies[:, 3] - rows.bodies[:, 1]).mean()

    assert 1.7 < height(192) / height(96) < 2.3


@pytest.mark.parametrize("people", [(0, 3), (4, 3)])
def test_people_must_be_a_range(people):
    with pytest.raises(ValueError, match="people must be a least and a largest number, got"):
        RenderedCrowds(people=people)


def test_crowdhuman_files(tmp_path):
    data = ready("test")
    data.write_odgt(tmp_path)
    people = data.test_set.people[1]
    lines = (tmp_path / "annotation_test.odgt").read_text().splitlines()
    entry = json.loads(lines[1])
    assert len(lines) == 2
    assert len(entry["gtboxes"]) == len(people)
    picture = read_picture(tmp_path / "Images" / f"{entry['ID']}.jpg").float()
    assert (picture - data.test_set.image[1].float()).abs().mean() < 12
    for row, box in enumerate(entry["gtboxes"]):
        x, y, width, height = box["fbox"]
        assert people.bodies[row].tolist() == pytest.approx([x, y, x + width, y + height])
        seen = box["vbox"][2] * box["vbox"][3] / (width * height)
        assert seen <= float(people.visible_ratio[row]) + 1e-6
        assert box["head_attr"]["ignore"] == int(not people.visible[row, 0])


def test_coco_files(tmp_path):
    data = ready("test")
    data.write_coco(tmp_path)
    content = json.loads((tmp_path / "annotations/person_humanparts_test2017.json").read_text())
    first = content["images"][0]
    picture = read_picture(tmp_path / "test2017" / first["file_name"])
    assert torch.equal(picture, data.test_set.image[0])
    people = data.test_set.people[0]
    rows = [entry for entry in content["annotations"] if entry["image_id"] == first["id"]]
    for row, entry in enumerate(rows):
        hier = torch.tensor(entry["hier"]).view(6, 5)
        for place, slot in ((0, 0), (3, 1), (2, 2)):
            assert torch.equal(hier[place, :4], people.parts[row, slot])
            assert bool(hier[place, 4]) == bool(people.visible[row, slot])
        assert not hier[[1, 4, 5]].any()

"""What datamodules of people share."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from datamodules.object_augmentation import PeopleTransform
from datamodules.people_data import PeopleData, PeopleImages, check_people
from framework.detection.body_parts.people import People, PeopleTable
from framework.objectives.errors import IncompatibleError


def two(ignored: bool = False) -> People:
    visible = torch.tensor([[True, True, False], [True, False, False]])
    return People(
        bodies=torch.ones(2, 4),
        parts=torch.ones(2, 3, 4),
        visible=visible,
        part_ignored=~visible,
        visible_ratio=torch.ones(2),
        ignored=torch.tensor([False, ignored]),
    )


class Crowd(PeopleData):
    class_names, slot_classes, num_classes = ("body", "head", "hand"), (1, 2, 2), 3
    input_shape = (3, 64, 64)

    def setup(self, stage: str | None = None) -> None:
        people = PeopleTable([two(), People.none(3), two(ignored=True)], num_slots=3)
        self.train_set = PeopleImages(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), people)
        self.augment_from(self.train_set)


class Note(PeopleTransform):
    def use_slots(self, slot_names):
        self.names = slot_names

    def __call__(self, sample, draw):
        return {**sample, "image": sample["image"] + 1}


def test_batches_hold_people_and_transforms_know_the_slots():
    note = Note()
    data = Crowd(batch_size=3, augment=[note])
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch["num_people"].tolist()) == [0, 2, 2]
    assert batch["parts"].shape == (3, 2, 3, 4)
    assert batch["image"].eq(1).all()
    assert note.names == ["head", "hand", "hand"]
    assert data.object_counts == {"body": 3, "head": 4, "hand": 2}


def test_slots_are_those_of_training():
    data = Crowd()
    assert data.number_slots(("body", "hand"), (1, 1)) == [0, 1]
    assert (data.num_classes, data.part_names) == (2, ["hand", "hand"])
    data.use_facts({"class_names": ["body", "head", "hand"], "slot_classes": [1, 2, 2]})
    assert data.number_slots(("body", "hand"), (1, 1)) == [1, 2]
    assert (data.num_classes, data.part_names) == (3, ["head", "hand", "hand"])
    with pytest.raises(IncompatibleError, match="foot cannot be told by it"):
        data.number_slots(("body", "foot"), (1,))
    with pytest.raises(IncompatibleError, match="more slots of class head than the 1 that"):
        data.number_slots(("body", "head"), (1, 1))


def test_images_without_people_are_refused():
    ignored = two(ignored=True)[1:]
    for people in (PeopleTable([People.none(3)], 3), PeopleTable([ignored], 3)):
        with pytest.raises(ValueError, match="'a' has no person on any of its"):
            check_people(people, repr("a"))
    check_people(PeopleTable([two()], 3), "a")


def test_pictures_of_any_size_become_squares(tmp_path):
    path = tmp_path / "street.png"
    Image.new("L", (33, 128)).save(path)
    batch = Crowd().as_batch([path, Image.new("RGBA", (1, 1))])
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["image_size"].tolist() == [[33, 128], [1, 1]]
    assert batch["letterbox_scale"].tolist() == [0.5, 64]
    for one in (path, str(path), Image.open(path)):
        assert torch.equal(Crowd().as_batch(one)["image"][0], batch["image"][0])
    assert Crowd().as_batch(torch.rand(2, 3, 32, 96)).keys() == {"image"}


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="There is no image to predict"):
        Crowd().as_batch([])
    with pytest.raises(ValueError, match=r"Images must be \(N, 3, H, W\), got \(1, 1, 64, 64\)"):
        Crowd().as_batch(torch.rand(1, 1, 64, 64))

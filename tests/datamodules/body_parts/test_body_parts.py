import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.body_parts import BodyParts
from datamodules.body_parts.annotations import clipped, share_seen
from datamodules.letterbox import letterbox
from datamodules.people_augmentation import MosaicAffine
from datamodules.pixel_augmentation import RandomHSV
from datamodules.rendered_crowds import RenderedCrowds
from framework.detection.body_parts.people import people_of
from framework.detection.tiles import to_whole_image
from framework.objectives.errors import IncompatibleError

DATA = Path(os.environ.get("TRIMTAB_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data in TRIMTAB_DATA")


def crowdhuman(root, size=(80, 40), images=3):
    (root / "Images").mkdir(parents=True)
    for part in ("train", "val"):
        lines = []
        for number in range(images):
            name = f"{part},{number}"
            Image.new("RGB", size, (200, 100, 0)).save(root / "Images" / f"{name}.jpg")
            box = {"tag": "person", "fbox": [10 + number, 4, 20, 30], "hbox": [16, 6, 8, 8]}
            lines.append(json.dumps({"ID": name, "gtboxes": [box] * (number + 1)}))
        (root / f"annotation_{part}.odgt").write_text("\n".join(lines))
    return root


def ready(root, stage, **arguments):
    data = BodyParts(str(root), **{"image_size": 64, "batch_size": 4, **arguments})
    data.setup(stage)
    return data


def test_a_picture_stands_in_the_middle_of_gray():
    boxed = letterbox(Image.new("RGB", (40, 100), (255, 0, 0)), 64)
    assert boxed["image"].shape == (3, 64, 64)
    gray = torch.tensor(114 / 255)
    assert boxed["letterbox_offset"].tolist() == [-19, 0]  # 26 of 64 columns
    assert boxed["image"][0, :, 19:45].eq(1).all()
    assert boxed["image"][:, :, :19].eq(gray).all()
    assert boxed["image"][:, :, 45:].eq(gray).all()
    assert boxed["image_size"].tolist() == [40, 100]


def test_people_are_in_pixels_of_the_square_and_return(tmp_path):
    data = ready(crowdhuman(tmp_path), "fit", format="crowdhuman")
    assert (data.class_names, list(data.slot_classes), data.num_classes) == (
        ("body", "head"),
        [1],
        2,
    )
    assert data.object_counts == {"body": 6, "head": 6}
    (batch,) = data.val_dataloader()
    assert batch["image"].shape == (3, 3, 64, 64)
    assert batch["num_people"].tolist() == [1, 2, 3]
    assert batch["bodies"].shape == (3, 3, 4)
    # 80 x 40 becomes 64 x 32 below 16 rows of gray
    assert batch["bodies"][0, 0].tolist() == pytest.approx([8, 19.2, 24, 43.2])
    for image, people in enumerate(people_of(batch)):
        offset, scale = batch["letterbox_offset"][image], batch["letterbox_scale"][image]
        whole = to_whole_image(people["bodies"].view(-1, 2, 2), offset, scale).flatten(1)
        assert torch.allclose(whole[0], torch.tensor([10.0 + image, 4, 30 + image, 34]))
    assert batch["image_size"].tolist() == [[80, 40]] * 3


def test_training_batches_hold_augmented_people_alone(tmp_path):
    root = crowdhuman(tmp_path)
    batches = []
    for size, workers in ((3, 0), (1, 0), (2, 2)):
        data = ready(
            root,
            "fit",
            format="crowdhuman",
            augment=[MosaicAffine(), RandomHSV()],
            batch_size=size,
            num_workers=workers,
        )
        assert data.mixes_samples
        batches.append({int(i): p for b in data.train_dataloader() for i, p in by_index(b)})
    assert batches[0].keys() == {0, 1, 2}
    for index, sample in batches[0].items():
        assert "letterbox_scale" not in sample
        for others in batches[1:]:
            assert all(torch.equal(sample[name], others[index][name]) for name in sample)


def by_index(batch):
    for row, people in enumerate(people_of(batch)):
        yield batch["index"][row], {**people, "image": batch["image"][row]}


def test_a_plain_folder_is_predicted(tmp_path):
    (tmp_path / "of any").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "of any" / "ä b.png")
    Image.new("L", (20, 50)).save(tmp_path / "c.jpg")
    for form in (None, "crowdhuman"):
        data = ready(tmp_path, "predict", format=form)
        (batch,) = data.predict_dataloader()
        assert data.image_names == ["c.jpg", "of any/ä b.png"]
        assert batch["image_size"].tolist() == [[20, 50], [30, 20]]
        assert "bodies" not in batch
    batch = data.as_batch([str(tmp_path / "c.jpg"), Image.new("RGB", (10, 10))])
    assert batch["image"].shape == (2, 3, 64, 64)
    assert data.as_batch(torch.zeros(2, 3, 64, 64)).keys() == {"image"}


@pytest.mark.parametrize(("asked", "size"), [(None, 96), (64, 64)])
def test_images_are_as_large_as_in_training(tmp_path, asked, size):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    data = BodyParts(str(tmp_path), image_size=asked)
    data.use_facts(
        {"class_names": ["body", "head"], "slot_classes": [1], "input_shape": [3, 96, 96]}
    )
    data.setup("predict")
    assert next(iter(data.predict_dataloader()))["image"].shape == (1, 3, size, size)
    assert BodyParts(str(tmp_path)).input_shape == (3, 640, 640)


def test_what_is_tested_is_named(tmp_path):
    data = ready(crowdhuman(tmp_path), "test", format="crowdhuman")
    assert data.image_names == ["val,0.jpg", "val,1.jpg", "val,2.jpg"]
    assert data.test_set is data.predict_set is data.val_set
    data = ready(tmp_path, "test", format="crowdhuman", test="annotation_train.odgt")
    assert data.image_names[0] == "train,0.jpg"


def test_slots_are_those_of_training(tmp_path):
    root = crowdhuman(tmp_path)
    data = BodyParts(str(root), "crowdhuman", image_size=64)
    data.use_facts({"class_names": ["body", "face", "head"], "slot_classes": [1, 2]})
    data.setup("validate")
    assert data.val_set[0]["visible"].tolist() == [[False, True]]
    data = BodyParts(str(root), "crowdhuman", image_size=64)
    data.use_facts({"class_names": ["body", "hand"], "slot_classes": [1, 1]})
    with pytest.raises(IncompatibleError, match="head cannot be told by it"):
        data.setup("validate")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ["head"]}, r"parts=\['head'\] need a format"),
        ({"format": "crowdhuman", "parts": ["foot"]}, r"parts of format crowdhuman must be some"),
        ({"format": "bodyhands", "parts": ["hand"]}, r"of bodyhands hand, hand; got \['hand'\]"),
        ({"image_size": 16}, r"image_size must be at least 32"),
        ({}, r"BodyParts needs a format, one of crowdhuman, "),
        ({"format": "crowdhuman", "parts": ["face"]}, r"odgt has heads and no other parts: for"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ready(crowdhuman(tmp_path), "fit", **arguments)


def test_images_are_checked_before_training(tmp_path):
    root = crowdhuman(tmp_path)
    path = root / "Images" / "train,1.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"train,1.jpg cannot be decoded as an image"):
        ready(root, "fit", format="crowdhuman")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"train,1.jpg does not exist"):
        ready(root, "fit", format="crowdhuman")
    with pytest.raises(FileNotFoundError, match=r"none.odgt does not exist"):
        ready(root, "fit", format="crowdhuman", train="none.odgt")
    content = {
        "images": [{"id": 1, "file_name": "val,0.jpg", "width": 40, "height": 80}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 2, 30, 40]}],
    }
    (root / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"val,0.jpg has 80 x 40 pixels, and \S+ says 40 x 80"):
        ready(root, "fit", format="coco_wholebody", train="a.json", train_images="Images")
    content["annotations"][0]["iscrowd"] = 1
    content["images"][0] |= {"width": 80, "height": 40}
    (root / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a.json has no person on any of its images"):
        ready(root, "fit", format="coco_wholebody", train="a.json", train_images="Images")


@needs_data
def test_real_people():
    labels = "annotations/test_coco_wholebody.json"
    data = BodyParts(
        str(DATA / "coco_wholebody_sample"),
        "coco_wholebody",
        image_size=128,
        train=labels,
        val=labels,
        train_images="images",
        val_images="images",
        batch_size=4,
        augment=[MosaicAffine(), RandomHSV()],
    )
    data.setup("fit")
    assert data.object_counts == {"body": 14, "face": 4, "left_hand": 5, "right_hand": 5}
    (batch,) = data.train_dataloader()
    assert batch["image"].shape == (4, 3, 128, 128)
    assert batch["num_people"].sum() > 0
    (batch,) = data.val_dataloader()
    assert batch["num_people"].sum() == 14
    assert batch["visible"].sum() == 14


@needs_data
def test_real_images_without_labels():
    data = ready(DATA / "bodypart_unlabelled", "predict", image_size=64, batch_size=13)
    (batch,) = data.predict_dataloader()
    assert batch["image"].shape == (13, 3, 64, 64)
    assert data.image_names[0] == "BodyHands/test_4507_1.jpg"


def returned(tmp_path, form, **arguments):
    """Drawn crowds and the same crowds from their files, as two lists of people."""
    crowds = RenderedCrowds(num_train=1, num_val=6, num_test=0, image_size=128)
    crowds.setup("validate")
    (crowds.write_odgt if form == "crowdhuman" else crowds.write_coco)(tmp_path)
    data = ready(tmp_path, "validate", format=form, image_size=128, train=None, **arguments)
    pairs = [(crowds.val_set.people[row], data.val_set.people[row]) for row in range(6)]
    assert sum(len(drawn) for drawn, _ in pairs) > 10
    for row in range(6):
        pixels = data.val_set[row]["image"] - crowds.val_set[row]["image"]
        assert pixels.abs().mean() < 0.05, "the same picture, its noise smoothed by JPEG"
    return pairs


def test_drawn_crowds_return_from_the_form_of_crowdhuman(tmp_path):
    for drawn, read in returned(tmp_path, "crowdhuman"):
        for row in range(len(drawn)):
            whole = tuple(drawn.bodies[row].tolist())
            body = clipped(whole, (128, 128))
            assert read.bodies[row].tolist() == pytest.approx(body, abs=1e-4)
            # no box of the image can say that more of a body is seen than lies inside
            most = share_seen(whole, whole, (128, 128))
            share = min(float(drawn.visible_ratio[row]), most)
            assert float(read.visible_ratio[row]) == pytest.approx(share, abs=1e-4)
        assert torch.equal(read.visible[:, 0], drawn.visible[:, 0])
        seen = drawn.visible[:, 0]
        inside = (drawn.parts[:, 0] >= 0).all(-1) & (drawn.parts[:, 0] <= 128).all(-1) & seen
        assert torch.allclose(read.parts[inside, 0], drawn.parts[inside, 0], atol=1e-4)


def test_drawn_crowds_return_from_the_form_of_coco(tmp_path):
    parts = ["head", "right_hand", "left_hand"]
    for drawn, read in returned(tmp_path, "cocohumanparts", parts=parts):
        assert torch.equal(read.visible, drawn.visible)
        assert torch.allclose(read.bodies, drawn.bodies, atol=1e-4)
        shown = drawn.visible
        assert torch.allclose(read.parts[shown], drawn.parts[shown], atol=1e-4)

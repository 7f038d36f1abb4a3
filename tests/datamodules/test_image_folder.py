import shutil

import pytest
import torch
from PIL import Image

from datamodules import Digits, ImageFolder, ImageList
from framework.data.datasets import IndexedDataset
from framework.data.facts import facts_of
from framework.data.samplers import GlobalBatchSampler
from tests.helpers.data import shared_data

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write_classes(folder, count=4, names=COLORS):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (12, 9 + number), COLORS[name]).save(folder / name / f"{number}.png")


def ready(root, **arguments):
    options = {"image_size": 6, "val_size": 3, "stratify": True, **arguments}
    data = ImageFolder(str(root), **options)
    data.setup("fit")
    return data


def test_one_folder_per_class(tmp_path):
    write_classes(tmp_path)
    data = ready(tmp_path)
    assert data.class_names == ["blue", "green", "red"]
    assert data.num_classes == 3
    assert len(data.val_set) == 3
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (9, 3, 6, 6)
    assert torch.equal(batch["label"], batch["index"] // 4)
    # blue, green, red are the classes 0, 1, 2 and the channels 2, 1, 0
    assert torch.equal(batch["image"].mean((2, 3)).argmax(1), 2 - batch["label"])
    assert batch["image"].max() == 1
    assert data.test_dataloader() == []
    assert len(next(iter(data.predict_dataloader()))["index"]) == 3


def test_folders_of_parts(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", count=2)
    write_classes(tmp_path / "test", count=1, names=["red"])
    data = ready(tmp_path)
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [12, 6, 1]
    assert next(iter(data.test_dataloader()))["label"].tolist() == [2]


def test_validation_is_split_off_where_it_has_no_folder(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    data = ready(tmp_path)
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [9, 3, 12]


def test_resize_then_crop_the_center(tmp_path):
    (tmp_path / "a").mkdir()
    picture = Image.new("RGB", (30, 10), (255, 0, 0))
    picture.paste((0, 0, 255), (10, 0, 20, 10))
    picture.save(tmp_path / "a" / "wide.png")
    image = ready(tmp_path, val_size=0, image_size=10).train_set[0]["image"]
    assert torch.equal(image, torch.tensor([0.0, 0, 1]).view(3, 1, 1).expand(3, 10, 10))


def test_resize_is_apart_from_the_crop(tmp_path):
    (tmp_path / "a").mkdir()
    picture = Image.new("RGB", (80, 40), (255, 0, 0))
    picture.paste((0, 0, 255), (30, 10, 50, 30))  # the middle 20 x 20
    picture.save(tmp_path / "a" / "wide.png")
    # resized to 40 x 20 the middle is blue in 10 x 10
    for size, blue in ((6, 1.0), (20, 0.25)):
        image = ready(tmp_path, val_size=0, image_size=size, resize=20).train_set[0]["image"]
        assert image.shape == (3, size, size)
        assert float(image[2].mean()) == pytest.approx(blue, abs=0.01)
    with pytest.raises(ValueError, match="resize must be at least image_size=10, got 9"):
        ready(tmp_path, image_size=10, resize=9)


def test_a_rank_without_rows_has_images_of_the_right_shape(tmp_path):
    write_classes(tmp_path)
    (batch,) = GlobalBatchSampler(1, 4, shuffle=False, rank=1, world_size=2)
    assert batch == [], "the last of one row on the second of two ranks"
    for channels in (1, 3):
        data = ready(tmp_path, channels=channels)
        found = IndexedDataset(data.val_set).__getitems__(batch)
        assert found["image"].shape == (0, channels, 6, 6)
        assert found["image"].dtype == torch.float32
        assert found["label"].shape == found["index"].shape == (0,)


def test_images_are_float32_in_a_run_of_double_precision(tmp_path):
    write_classes(tmp_path)
    data = ready(tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        assert next(iter(data.val_dataloader()))["image"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_gray_images(tmp_path):
    write_classes(tmp_path)
    data = ready(tmp_path, channels=1)
    assert data.input_shape == (1, 6, 6)
    assert next(iter(data.train_dataloader()))["image"].shape == (9, 1, 6, 6)
    with pytest.raises(ValueError, match="channels must be one of 1, 3"):
        ImageFolder(str(tmp_path), channels=2)


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_undecodable_images_are_named_before_training_or_left_out(tmp_path, damage):
    write_classes(tmp_path)
    for name in ("blue/0.png", "red/2.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(
            {"text": b"not an image", "cut": whole[: len(whole) // 2], "empty": b""}[damage]
        )
    with pytest.raises(
        ValueError,
        match=r"2 of the 12 images .*: blue.0\.png, red.2\.png\. The first: .+blue.0.png cannot",
    ) as error:
        ready(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="2 of the 12 images .* are left out: .*blue.0"):
        data = ready(tmp_path, strict=False)
    assert len(data.train_set) + len(data.val_set) == 10
    (batch,) = data.train_dataloader()
    assert torch.equal(batch["image"].mean((2, 3)).argmax(1), 2 - batch["label"])


def test_every_image_is_predicted_whatever_its_folder(tmp_path):
    write_classes(tmp_path / "some" / "where", count=2)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "loose.png")
    data = ImageFolder(str(tmp_path), image_size=6)
    data.setup("predict")
    assert data.predict_set.names == [
        "loose.png",
        *(f"some/where/{name}/{number}.png" for name in COLORS for number in range(2)),
    ]
    (batch,) = data.predict_dataloader()
    assert sorted(batch) == ["image", "index"]
    assert batch["index"].tolist() == list(range(7))
    assert batch["image"].mean((2, 3)).argmax(1).tolist() == [0, 2, 2, 1, 1, 0, 0]


def test_the_test_part_is_predicted_where_there_are_parts(tmp_path):
    write_classes(tmp_path / "Train")
    write_classes(tmp_path / "Valid", count=2)
    data = ImageFolder(str(tmp_path), image_size=6)
    data.setup("predict")
    assert data.predict_set.names[0] == "Valid/blue/0.png"
    assert len(data.predict_set) == 6
    write_classes(tmp_path / "Test", count=1)
    data.setup("fit")
    data.setup("predict")
    assert data.predict_set.names == [f"Test/{name}/0.png" for name in COLORS]
    assert data.test_set.names == data.predict_set.names


@pytest.mark.parametrize(
    ("options", "shape", "resize"),
    [
        ({}, (1, 6, 8), 9),
        ({"image_size": 4}, (1, 4, 4), None),
        ({"channels": 3}, (3, 6, 8), 9),
        ({"resize": 12}, (1, 6, 8), 12),
    ],
)
def test_what_is_not_given_follows_training(tmp_path, options, shape, resize):
    write_classes(tmp_path)
    facts = {"input_shape": [1, 6, 8], "resize": 9, "class_names": ["blue", "red"]}
    for kind in (ImageFolder, ImageList):
        data = kind(str(tmp_path), **options)
        data.use_facts(facts)
        data.setup("predict")
        assert (data.input_shape, data.resize) == (shape, resize)
        assert next(iter(data.predict_dataloader()))["image"].shape == (12, *shape)


@pytest.mark.parametrize(
    ("mode", "size", "shape"),
    [("RGB", (20, 14), (3, 14, 14)), ("L", (9, 30), (1, 9, 9)), ("RGB", (300, 400), (3, 224, 224))],
)
def test_what_nobody_says_follows_the_files(tmp_path, mode, size, shape):
    for name in ("blue", "red"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new(mode, size).save(tmp_path / name / f"{number}.png")
    for kind in (ImageFolder, ImageList):
        data = kind(str(tmp_path), batch_size=4)
        data.setup("fit")
        assert data.input_shape == shape
        assert next(iter(data.train_dataloader()))["image"].shape[1:] == shape


def evaluated(root, stage):
    data = ImageFolder(str(root), image_size=6)
    facts = {"origin": ["elsewhere"], "class_names": ["red", "green", "blue"]}
    data.use_facts(facts)
    data.setup(stage)
    return data


def test_a_folder_is_new_after_training_on_data_of_another_kind(tmp_path):
    write_classes(tmp_path, names=["blue", "red"])
    data = ImageFolder(str(tmp_path), image_size=6, channels=3)
    data.use_facts({"origin": facts_of(Digits())["origin"], "class_names": ["blue", "red"]})
    data.setup("validate")
    assert len(data.val_set) == 8


def test_a_copy_of_the_training_is_not_new_and_a_changed_folder_is_said_to_be(tmp_path):
    write_classes(tmp_path / "a", names=["blue", "red"])
    facts = facts_of(ready(tmp_path / "a", val_size=2, stratify=True))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = ImageFolder(str(tmp_path / "b"), image_size=6, val_size=2, stratify=True)
    copied.use_facts(facts)
    copied.setup("validate")
    assert len(copied.val_set) == 2
    assert not copied.is_new
    copied.setup("predict")
    assert len(copied.predict_set) == 8
    next((tmp_path / "a").rglob("*.png")).unlink()
    with pytest.warns(UserWarning, match="has changed since the training"):
        ImageFolder(str(tmp_path / "a"), image_size=6).use_facts(facts)


def test_all_images_of_another_folder_are_evaluated_under_the_numbers_of_training(tmp_path):
    write_classes(tmp_path, names=["blue", "red"])
    for stage in ("validate", "test"):
        data = evaluated(tmp_path, stage)
        batch = next(iter(data.val_dataloader() if stage == "validate" else data.test_dataloader()))
        assert batch["label"].tolist() == [2] * 4 + [0] * 4
        assert torch.equal(batch["image"].mean((2, 3)).argmax(1), batch["label"])
        assert (data.class_names, data.num_classes) == (["red", "green", "blue"], 3)
    (tmp_path / "red").rename(tmp_path / "zebra")
    with pytest.raises(ValueError, match="zebra cannot be told"):
        evaluated(tmp_path, "test")


def test_parts_without_one_to_train_on_are_evaluated_and_predicted(tmp_path):
    write_classes(tmp_path / "Test", names=["green"])
    write_classes(tmp_path / "valid", names=["red"], count=2)
    data = evaluated(tmp_path, "test")
    assert next(iter(data.test_dataloader()))["label"].tolist() == [1] * 4
    assert next(iter(data.val_dataloader()))["label"].tolist() == [0] * 2
    assert len(evaluated(tmp_path, "predict").predict_set) == 4
    with pytest.raises(FileNotFoundError, match="has Test and valid, but no folder called train"):
        ready(tmp_path)


def test_folders_of_numbers_are_the_classes_by_number(tmp_path):
    write_classes(tmp_path, names=COLORS, count=3)
    for number, name in zip((2, 10, 9), COLORS, strict=True):
        (tmp_path / name).rename(tmp_path / str(number))
    data = ready(tmp_path, val_size=0)
    assert data.class_names == ["2", "9", "10"]
    (batch,) = data.train_dataloader()
    # blue is 2, red is 9 and green is 10
    channel = torch.tensor([2, 0, 1])[batch["label"]]
    assert torch.equal(batch["image"].mean((2, 3)).argmax(1), channel)


def test_hidden_folders_are_no_classes_and_loose_images_are_said(tmp_path):
    write_classes(tmp_path)
    write_classes(tmp_path / ".ipynb_checkpoints")
    Image.new("RGB", (8, 8)).save(tmp_path / "loose.png")
    with (
        pytest.warns(UserWarning, match="hidden files and folders: 1"),
        pytest.warns(UserWarning, match=f"1 images in {tmp_path} itself are in no class"),
    ):
        data = ready(tmp_path)
    assert len(data.class_names) == 3
    assert len(data.train_set) + len(data.val_set) == 12


def test_a_class_without_validation_images_is_said(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", names=["red"])
    with pytest.warns(UserWarning, match="2 of the 3 classes have no image for validation: blue, "):
        ready(tmp_path)


def test_images_need_not_be_square(tmp_path):
    write_classes(tmp_path)
    data = ready(tmp_path, image_size=(4, 8), stratify=True)
    assert data.input_shape == (3, 4, 8)
    assert next(iter(data.train_dataloader()))["image"].shape == (9, 3, 4, 8)


def test_raw_pictures_become_a_batch_as_in_evaluation(tmp_path):
    write_classes(tmp_path)
    data = ready(tmp_path, image_size=4, resize=6, mean=[0.2, 0.3, 0.4], std=[0.5, 0.6, 0.7])
    known = data.train_set.dataset
    elsewhere = ImageFolder("gone", 4, 3, resize=6, mean=[0.2, 0.3, 0.4], std=[0.5, 0.6, 0.7])
    batch = elsewhere.as_batch([str(path) for path in known.paths[:3]])
    assert torch.equal(batch["image"], known.batch([0, 1, 2])["image"])


def test_bad_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*gone: give .* data.root"):
        ready(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="is not a folder with one folder of images"):
        ready(tmp_path)
    write_classes(tmp_path / "train")
    (tmp_path / "train" / "yellow").mkdir()
    (tmp_path / "train" / "yellow" / "notes.txt").write_text("no image")
    with (
        pytest.warns(UserWarning, match=r"files ending in \.txt: 1"),
        pytest.raises(FileNotFoundError, match=r"train.yellow holds no image"),
    ):
        ready(tmp_path)


def test_evaluated_class_that_is_not_trained(tmp_path):
    write_classes(tmp_path / "train", names=["red", "blue"])
    write_classes(tmp_path / "val")
    with pytest.raises(ValueError, match=r"val.green is a class that the training set lacks"):
        ready(tmp_path)


def test_real_faces():
    data = ready(shared_data("orl_faces"), image_size=92, channels=1, val_size=40)
    assert data.num_classes == 40
    assert len(data.train_set) == 360
    labels = torch.cat([data.train_set.dataset.fields["label"]])
    assert torch.bincount(labels).tolist() == [10] * 40
    row = data.class_names.index("s11") * 10
    sample = data.train_set.dataset[row]
    with Image.open(shared_data("orl_faces", "s11", "1.pgm")) as file:
        center = torch.frombuffer(bytearray(file.tobytes()), dtype=torch.uint8).view(112, 92)[
            10:102
        ]
    torch.testing.assert_close(sample["image"][0], center / 255)

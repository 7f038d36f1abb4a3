import pytest
import torch
from PIL import Image

from datamodules import ImageFolder, ImageList, WholeSet
from framework.data.facts import facts_of
from tests.helpers.data import shared_data


def write(folder, **grays):
    """Write gray images by the names of their files; ``__`` stands for a subfolder."""
    for name, gray in grays.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 6), gray).save(path)


def ready(root, **arguments):
    data = ImageList(str(root), **{"image_size": 4, "channels": 1, **arguments})
    data.setup("fit")
    return data


def predicted(data):
    (batch,) = data.predict_dataloader()
    return batch


def test_all_images_below_a_folder_without_labels(tmp_path):
    write(tmp_path, b=1, a__z=2, a__deep__y=3, c=4)
    (tmp_path / "notes.txt").write_text("no image")
    Image.new("L", (4, 4), 5).save(tmp_path / "d.JPEG", quality=100)
    with pytest.warns(UserWarning, match=r"files ending in \.txt: 1"):
        data = ready(tmp_path)
    batch = predicted(data)
    assert data.predict_set.names == ["a/deep/y.png", "a/z.png", "b.png", "c.png", "d.JPEG"]
    assert sorted(batch) == ["image", "index"]
    assert batch["index"].tolist() == [0, 1, 2, 3, 4]
    gray = batch["image"].mul(255).round()
    # sorted by path: a/deep/y, a/z, b, c, d
    assert torch.equal(gray, torch.tensor([3.0, 2, 1, 4, 5]).view(5, 1, 1, 1).expand(5, 1, 4, 4))
    assert (data.num_classes, data.class_names) == (None, None)
    assert sorted(next(iter(data.train_dataloader()))["index"].tolist()) == [0, 1, 2, 3, 4]
    assert data.val_dataloader() == data.test_dataloader() == []
    images = data.train_set
    data.setup("predict")
    assert data.train_set is images, "finds the files once"


def test_folders_behind_links_are_read(tmp_path):
    write(tmp_path / "elsewhere", a=1)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    assert len(ready(tmp_path / "root").train_set) == 1


def test_labels_of_the_names_are_numbered_naturally(tmp_path):
    write(tmp_path, obj10_1=0, obj2_1=0, obj1_7=0, obj2_9=0, part11__obj11_0=0)
    data = ImageList(str(tmp_path), image_size=4, channels=1, label_pattern=r"obj(\d+)_")
    assert data.input_shape == (1, 4, 4)
    data.setup("fit")
    assert data.class_names == ["1", "2", "10", "11"]
    assert data.num_classes == 4
    # obj10_1, obj1_7, obj2_1, obj2_9, part11/obj11_0
    assert predicted(data)["label"].tolist() == [2, 0, 1, 1, 3]
    assert predicted(data)["label"].dtype == torch.int64


def test_labels_may_be_text(tmp_path):
    write(tmp_path, b2_x=0, b10_x=0, a_x=0, b_x=0)
    data = ready(tmp_path, label_pattern="^([a-z]+[0-9]*)_")
    assert data.class_names == ["a", "b", "b2", "b10"]


def test_images_without_labels_have_no_classes_after_a_training_that_had(tmp_path):
    write(tmp_path, a=1)
    data = ImageList(str(tmp_path), image_size=4)
    data.use_facts({"class_names": ["cat", "dog"]})
    data.setup("predict")
    assert (data.num_classes, data.class_names) == (None, None)


def test_size_channels_and_scale(tmp_path):
    picture = Image.new("RGB", (30, 10), (255, 0, 0))
    picture.paste((0, 0, 255), (10, 0, 20, 10))
    picture.save(tmp_path / "wide.png")
    data = ready(tmp_path, image_size=10, channels=3, mean=[0.5], std=[0.5])
    assert data.input_shape == (3, 10, 10)
    expected = torch.tensor([-1.0, -1, 1]).view(1, 3, 1, 1).expand(1, 3, 10, 10)
    assert torch.equal(predicted(data)["image"], expected)
    assert torch.equal(next(iter(data.train_dataloader()))["image"], expected)


def test_as_a_whole_set(tmp_path):
    write(tmp_path, a=10, b=20, c=30)
    source = ImageList(str(tmp_path), image_size=4, channels=1, mean=[0.5], std=[0.5])
    for workers in (0, 2):
        data = WholeSet(source, batch_size=2, num_workers=workers)
        assert (data.num_classes, data.input_shape) == (None, (1, 4, 4))
        data.setup("fit")
        batches = list(data.val_dataloader())
        assert [sorted(batch) for batch in batches] == [["image", "index"]] * 2
        image = torch.cat([batch["image"] for batch in batches])[:, 0, 0, 0]
        torch.testing.assert_close(image, torch.tensor([10.0, 20, 30]) / 127.5 - 1)
        assert data.num_samples == 3


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_undecodable_image_is_named_before_the_run(tmp_path, content):
    write(tmp_path, a=1)
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.png cannot be decoded as an image: .+") as error:
        ready(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="1 of the 2 images .* are left out"):
        assert ready(tmp_path, strict=False).predict_set.names == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 2}, "channels must be one of 1, 3, got 2"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"label_pattern": "obj("}, r"label_pattern 'obj\(' is no regular expression: .+\."),
        ({"label_pattern": "obj"}, "needs one group in parentheses, 'obj' has 0"),
        ({"label_pattern": "(a)(b)"}, r"needs one group in parentheses, '\(a\)\(b\)' has 2"),
        ({"mean": [0.5]}, "mean and std must be given together"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageList(str(tmp_path), **arguments)


@pytest.mark.parametrize("pattern", [r"obj(\d+)", r"obj(\d*)", r"obj(\d+)?"])
def test_a_name_without_a_label_is_named(tmp_path, pattern):
    write(tmp_path, obj3__obj1=0, obj3__object=0)
    with pytest.raises(ValueError, match=r"obj3.object\.png: label_pattern obj\(.+ is not in"):
        ready(tmp_path, label_pattern=pattern)


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone is not a folder"):
        ready(tmp_path / "gone")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "notes.txt").write_text("no image")
    with pytest.raises(FileNotFoundError, match="holds no image, nor does a folder in it"):
        ready(tmp_path)


def test_real_coil20():
    folder = shared_data("coil20")
    source = ImageList(str(folder), image_size=128, channels=1, label_pattern=r"obj(\d+)__")
    data = WholeSet(source, batch_size=240)
    data.setup("fit")
    assert (data.num_samples, data.num_classes, data.input_shape) == (1440, 20, (1, 128, 128))
    assert data.class_names == [str(k) for k in range(1, 21)]
    batches = list(data.ordered_train_dataloader())
    labels = torch.cat([batch["label"] for batch in batches])
    assert labels.bincount().tolist() == [72] * 20
    assert labels[0] == 9, "obj10__0.png is the first path"
    total = sum(batch["image"].double().sum() for batch in batches)
    assert float(total) * 255 / (1440 * 128 * 128) == pytest.approx(76.9, abs=0.05)
    with Image.open(folder / "obj10__0.png") as file:
        pixels = torch.frombuffer(bytearray(file.convert("L").tobytes()), dtype=torch.uint8)
    torch.testing.assert_close(batches[0]["image"][0, 0], pixels.view(128, 128) / 255)


def test_scale_and_size_are_those_of_the_folders_that_were_trained(tmp_path):
    write(tmp_path, cat__a=10, cat__b=20, dog__a=200, dog__b=220)
    trained = ImageFolder(str(tmp_path), image_size=5, mean=[0.25], std=[0.5], val_size=0)
    trained.setup("fit")
    data = ImageList(str(tmp_path))
    data.use_facts(facts_of(trained))
    data.setup("predict")
    assert torch.equal(predicted(data)["image"], trained.train_set.dataset.batch(range(4))["image"])
    assert data.input_shape == (1, 5, 5)
    # raw pictures too, before anything is read
    alone = ImageList(str(tmp_path))
    alone.use_facts(facts_of(trained))
    batch = alone.as_batch([tmp_path / "cat" / "a.png"])
    assert torch.equal(batch["image"], predicted(data)["image"][:1])

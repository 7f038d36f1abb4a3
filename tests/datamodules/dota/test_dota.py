import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.dota import DOTA
from datamodules.dota.labels import write_labels
from datamodules.scene_rendering import CLASS_NAMES, render_scene
from tests.helpers.data import shared_data


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """One canvas of 500 x 400 pixels to train on, and one of 90 x 70 to validate on."""
    root = tmp_path_factory.mktemp("scenes")
    for part, name, width, height, number in (
        ("train", "P0001", 500, 400, 30),
        ("val", "P0002", 90, 70, 3),
    ):
        write_scene(root / part, name, width, height, number)
    return root


def write_scene(folder, name, width, height, number):
    picture, objects = render_scene(0, width, height, objects=(number, number))
    for kind in ("images", "labelTxt"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / "images" / f"{name}.png")
    write_labels(folder / "labelTxt" / f"{name}.txt", objects, CLASS_NAMES)


def ready(root, stage=None, **arguments):
    settings = {"image_size": 160, "gap": 40, "classes": list(CLASS_NAMES), "batch_size": 4}
    data = DOTA(str(root), **{**settings, **arguments})
    data.setup(stage)
    return data


def whole(batch):
    """The quads of a batch in pixels of the whole image."""
    return (batch["quads"] + batch["tile_offset"][:, None, None]) / batch["tile_scale"].view(
        -1, 1, 1, 1
    )


def test_tiles_of_a_canvas(scenes):
    data = ready(scenes, "fit", val="train", eval_batch_size=12)
    picture = np.asarray(Image.open(scenes / "train" / "images" / "P0001.png"))
    (batch,) = data.val_dataloader()
    # lefts 0, 120, 240, 340; tops 0, 120, 240
    assert batch["tile_offset"].tolist() == [
        [left, top] for top in (0, 120, 240) for left in (0, 120, 240, 340)
    ]
    for image, (left, top) in zip(batch["image"], batch["tile_offset"].int().tolist(), strict=True):
        pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(pixels, picture[top : top + 160, left : left + 160])
    assert batch["image_id"].tolist() == [0] * 12
    assert batch["tile_scale"].tolist() == [1] * 12
    # the whole image's objects stand in its first tile
    _, objects = render_scene(0, 500, 400, objects=(30, 30))
    assert torch.equal(batch["image_quads"][0], objects.quads)
    assert torch.equal(batch["image_label"][0], objects.label)
    assert batch["image_label"][1:].eq(-1).all()
    # an object of a tile is one of the whole image, or cut at the border
    gap = (whole(batch)[:, :, None] - objects.quads).flatten(3).abs().amax(-1)
    at_border = batch["quads"].eq(0) | batch["quads"].eq(160)
    is_whole = gap.lt(1e-3).any(-1)
    real = batch["label"] >= 0
    assert torch.equal((is_whole | at_border.flatten(2).any(-1))[real], real[real])
    assert 25 < int(is_whole.sum()) < int(real.sum())


def test_every_object_is_shown_whole_by_some_tile_if_the_gap_is_wide(scenes):
    data = ready(scenes, "fit", gap=80, val="train", eval_batch_size=99)
    (batch,) = data.val_dataloader()
    _, objects = render_scene(0, 500, 400, objects=(30, 30))
    gap = (whole(batch)[:, :, None] - objects.quads).flatten(3).abs().amax(-1)
    assert gap.amin((0, 1)).max() < 1e-3


def test_training_leaves_out_what_a_tile_hardly_shows(scenes):
    evaluated = ready(scenes, "fit", val="train").val_set
    trained = ready(scenes, "fit").train_set
    assert sorted(trained[0]) == ["difficult", "image", "label", "object_weight", "quads"]
    for row in range(len(evaluated)):
        seen, learned = evaluated[row], trained[row]
        hard = evaluated.objects[row].difficult == 2
        assert torch.equal(seen["quads"][~hard], learned["quads"])
        assert seen["difficult"][hard].all()
    assert (evaluated.objects.rows.difficult == 2).any()


def test_a_small_image_is_filled_up_with_gray(scenes):
    (batch,) = ready(scenes, "validate").val_dataloader()
    assert batch["tile_extent"].tolist() == [[90, 70]]
    image = batch["image"][0].mul(255).round()
    assert image[:, 70:].eq(128).all()
    assert image[:, :, 90:].eq(128).all()
    assert image[:, :70, :90].ne(128).any()


def test_sizes_before_cutting(scenes):
    data = ready(scenes, "fit", val="train", rates=(1.0, 0.5), eval_batch_size=99)
    (batch,) = data.val_dataloader()
    assert batch["tile_scale"].tolist() == [1] * 12 + [0.5] * 4  # of 250 x 200 pixels
    assert batch["tile_extent"].tolist() == [[160, 160]] * 16
    small = ready(scenes, "validate", rates=(0.5,)).val_set
    assert small[0]["tile_extent"].tolist() == [45, 35]
    assert batch["image_label"].ge(0).any(1).tolist() == [True] + [False] * 15
    _, objects = render_scene(0, 500, 400, objects=(30, 30))
    gap = (whole(batch)[:, :, None] - objects.quads).flatten(3).abs().amax(-1)
    assert gap[12:].lt(1e-3).any(-1).sum() >= 30, "at half size most are whole"


def test_tiles_without_objects(tmp_path):
    write_scene(tmp_path / "train", "P0001", 300, 80, 0)
    write_scene(tmp_path / "train", "P0002", 100, 100, 2)
    assert len(ready(tmp_path, "fit", val=None).train_set) == 4
    data = ready(tmp_path, "fit", val=None, empty_tiles=False)
    assert len(data.train_set) == 1
    assert len(data.train_set[0]["label"]) == 2


@pytest.mark.parametrize("rates", [(1.0,), (0.5, 1.5)])
def test_a_cache_shows_the_same(scenes, tmp_path, rates):
    arguments = {"rates": rates, "eval_batch_size": 99, "val": "train"}
    (fresh,) = ready(scenes, "fit", **arguments).val_dataloader()
    (kept,) = ready(scenes, "fit", cache_dir=str(tmp_path), **arguments).val_dataloader()
    assert all(torch.equal(fresh[name], kept[name]) for name in fresh)
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert len(names) == len(fresh["image"]) + 1
    assert f"P0001__{rates[0]:g}__0___0.png" in names
    assert "tiling.json" in names


def test_cutting_goes_on_where_it_stood(scenes, tmp_path):
    ready(scenes, "fit", cache_dir=str(tmp_path))
    files = sorted((tmp_path / "train").glob("*.png"))
    before = {path: path.stat().st_mtime_ns for path in files}
    files[3].unlink()
    ready(scenes, "fit", cache_dir=str(tmp_path))
    changed = [path for path in files if path.stat().st_mtime_ns != before[path]]
    assert changed == [files[3]]
    picture = scenes / "train" / "images" / "P0001.png"
    picture.touch()
    ready(scenes, "fit", cache_dir=str(tmp_path))
    assert all(path.stat().st_mtime_ns != before[path] for path in files), "older than the picture"


def test_tiles_of_another_picture_are_cut_again(scenes, tmp_path):
    cache = str(tmp_path / "cache")
    ready(scenes, "fit", val=None, cache_dir=cache)
    write_scene(tmp_path / "other" / "train", "P0001", 500, 400, 5)  # of the same name
    path = tmp_path / "other" / "train" / "images" / "P0001.png"
    os.utime(path, (1, 1))  # older than the tiles
    (fresh,) = ready(tmp_path / "other", "fit", val="train", eval_batch_size=99).val_dataloader()
    other = ready(tmp_path / "other", "fit", val="train", cache_dir=cache, eval_batch_size=99)
    (kept,) = other.val_dataloader()
    assert torch.equal(fresh["image"], kept["image"])


def test_nothing_to_train_on_is_an_error(scenes, tmp_path):
    write_scene(tmp_path / "train", "P0001", 100, 80, 0)
    for empty_tiles in (True, False):
        with pytest.raises(ValueError, match=r"train/labelTxt has no object on any of its"):
            ready(tmp_path, "fit", val=None, empty_tiles=empty_tiles)
    # nor is anything scored on such a part, though it can be predicted
    shutil.copytree(scenes / "train", tmp_path / "full")
    with pytest.raises(ValueError, match=r"train/labelTxt has no object .* leave this part out"):
        ready(tmp_path, "fit", train="full", val="train")
    with pytest.raises(ValueError, match=r"train/labelTxt has no object"):
        ready(tmp_path, "test", train="full", val="full", test="train")
    assert ready(tmp_path, "predict", train="full", val="full", test="train").image_names == [
        "P0001"
    ]
    (tmp_path / "train" / "images" / "P0001.png").write_bytes(b"broken")
    with (
        pytest.warns(UserWarning, match="unreadable image: 1"),
        pytest.raises(ValueError, match=r"train/labelTxt has no object on any of its 0 images"),
    ):
        ready(tmp_path, "fit", val=None, strict=False)


def test_a_cache_of_other_tiles_is_refused(scenes, tmp_path):
    ready(scenes, "fit", cache_dir=str(tmp_path))
    with pytest.raises(
        ValueError, match=r"holds tiles cut with \{'window': 160.*another cache_dir"
    ):
        ready(scenes, "fit", cache_dir=str(tmp_path), image_size=128)
    other = tmp_path / "other"
    (other / "train").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(other / "train" / "own.png")
    with pytest.raises(ValueError, match="holds pictures that are no tiles"):
        ready(scenes, "fit", cache_dir=str(other))


def test_the_same_samples_for_any_number_of_workers(scenes):
    batches = [list(ready(scenes, "fit", num_workers=n).train_dataloader()) for n in (0, 2)]
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_parts_of_stages(scenes, tmp_path):
    data = ready(scenes, "predict")
    assert data.train_set is None
    assert data.predict_set is data.test_set is data.val_set
    assert data.image_names == ["P0002"]
    assert data.image_paths == [str(scenes / "val" / "images" / "P0002.png")]
    data = ready(scenes, "test", test="train")
    assert (data.val_set, data.image_names) == (None, ["P0001"])
    # a test part without labels, as DOTA's own, is only predicted
    (tmp_path / "test" / "images").mkdir(parents=True)
    Image.new("RGB", (300, 200)).save(tmp_path / "test" / "images" / "P0003.png")
    data = ready(tmp_path, "predict", test="test")
    assert data.test_set is None
    assert sorted(next(iter(data.predict_dataloader()))) == [
        "image",
        "image_id",
        "index",
        "tile_extent",
        "tile_offset",
        "tile_scale",
    ]
    with pytest.raises(FileNotFoundError, match=r"labelTxt is not a folder of labels"):
        ready(tmp_path, "fit", train="test", val=None)


def test_a_real_image():
    data = ready(
        shared_data("dota_sample"),
        "fit",
        train=".",
        val=".",
        classes=None,
        image_size=1024,
        gap=200,
    )
    assert data.num_classes == 15
    assert len(data.val_set) == 4
    first = data.val_set[0]
    assert first["image_label"].bincount(minlength=15)[[6, 12]].tolist() == [531, 5]
    assert int(first["image_difficult"].sum()) == 6
    seen = torch.cat(
        [
            sample["quads"] + sample["tile_offset"]
            for sample in (data.val_set[row] for row in range(4))
        ]
    )
    assert data.object_counts["ship"] >= 531, "some in two tiles"
    gap = (first["image_quads"][:, None] - seen).flatten(2).abs().amax(-1).amin(1)
    assert (gap < 1e-3).sum() >= 530, "nearly all ships are whole in some tile"


def test_the_other_layout():
    data = ready(shared_data("dota8"), "fit", classes=None, image_size=1024)
    assert (len(data.train_set), len(data.val_set)) == (4, 4)
    batch = next(iter(data.train_dataloader()))
    # 105 ships and so on; of those at the border a tile shows what lies in it
    assert int((batch["label"] >= 0).sum()) <= 125
    assert int((batch["label"] == 6).sum()) >= 100
    assert batch["quads"].min() >= 0
    assert batch["quads"].max() <= 1024


def broken(folder):
    write_scene(folder / "train", "P0001", 100, 80, 2)
    return folder / "train" / "images", folder / "train" / "labelTxt"


def test_what_is_wrong_is_named_or_left_out(tmp_path):
    images, labels = broken(tmp_path)
    (images / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty.png cannot be decoded as an image"):
        ready(tmp_path, "fit", val=None)
    (images / "empty.png").unlink()
    Image.new("RGB", (9, 9)).save(images / "alone.png")
    with pytest.raises(ValueError, match=r"alone.png has no labels in .*labelTxt"):
        ready(tmp_path, "fit", val=None)
    (images / "alone.png").unlink()
    (labels / "lost.txt").touch()
    with pytest.raises(ValueError, match=r"lost.txt has no image"):
        ready(tmp_path, "fit", val=None)
    (images / "empty.png").touch()
    with (labels / "P0001.txt").open("a") as file:
        file.write("0 0 9 9 9 0 0 9 ship 0\n")
    with pytest.warns(
        UserWarning,
        match=r"Faults of .*images are left out \(unreadable image: 1, labels without an image: 1, "
        r"no convex area: 1\)\. The first: .*empty.png",
    ):
        data = ready(tmp_path, "fit", val=None, strict=False)
    assert len(data.train_set) == 1
    assert len(data.train_set[0]["label"]) == 2


def test_two_images_of_one_name(tmp_path):
    images, _ = broken(tmp_path)
    (images / "more").mkdir()
    Image.new("RGB", (9, 9)).save(images / "more" / "P0001.jpg")
    with pytest.raises(ValueError, match=r"P0001.jpg has the same name as .*P0001.png"):
        ready(tmp_path, "fit", val=None)


def test_arguments_are_checked(tmp_path):
    for arguments, message in (
        ({"classes": []}, r"Classes need names, each its own, got \[\]"),
        ({"classes": ["a", "b", "a"]}, "Classes need names, each its own"),
        ({"classes": ["a", "small ship"]}, "A class cannot be called 'small ship'"),
        ({"gap": 160}, r"gap must lie in \[0, 160\), got 160"),
        ({"rates": ()}, "rates must be positive numbers"),
        ({"rates": (0.0,)}, "rates must be positive numbers"),
        ({"classes": None, "version": "3.0"}, r"version must be one of 1.0, 1.5, 2.0, got '3.0'"),
    ):
        with pytest.raises(ValueError, match=message):
            ready(tmp_path, **arguments)
    with pytest.raises(FileNotFoundError, match=r"train is not a folder"):
        ready(tmp_path, "fit")


def test_hidden_label_files_are_no_labels(tmp_path):
    _, labels = broken(tmp_path)
    (labels / "._P0001.txt").write_bytes(b"\x00\x05\x16\x07")
    assert len(ready(tmp_path, "fit", val=None).train_set) == 1

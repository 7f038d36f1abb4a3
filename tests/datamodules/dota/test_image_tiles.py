import shutil

import pytest
import torch
from PIL import Image

from datamodules.dota import ImageTiles
from tests.helpers.data import shared_data


def ready(root, **arguments):
    settings = {"image_size": 64, "gap": 16, "class_names": ["ship"], "batch_size": 3}
    data = ImageTiles(str(root), **{**settings, **arguments})
    data.setup("predict")
    return data


def test_tiles_of_all_images_below_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    Image.new("L", (100, 60), 50).save(tmp_path / "b.png")
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "deep" / "a.png")
    data = ready(tmp_path)
    (batch,) = data.predict_dataloader()
    assert batch["image_id"].tolist() == [0, 0, 1]
    assert batch["tile_offset"].tolist() == [[0, 0], [36, 0], [0, 0]]
    assert data.image_names == ["b", "a"]
    assert data.image_paths == [str(tmp_path / "b.png"), str(tmp_path / "deep" / "a.png")]
    assert batch["image"][0, :, :60].mul(255).round().eq(50).all()
    assert batch["image"][2, 0].eq(1).all()
    assert data.val_dataloader() == []


def test_a_cache_shows_the_same(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    shutil.copy(shared_data("dota_sample", "unlabelled", "mmrotate_demo.jpg"), root)
    settings = {"image_size": 512, "gap": 64, "batch_size": 64}
    (fresh,) = ready(root, **settings).predict_dataloader()
    cache = str(tmp_path / "cache")
    (kept,) = ready(root, cache_dir=cache, **settings).predict_dataloader()
    assert len(fresh["image"]) > 3
    assert all(torch.equal(fresh[name], kept[name]) for name in fresh)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no image"):
        ready(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a.png cannot be decoded as an image"):
        ready(tmp_path)


def test_tiles_among_the_images_are_refused(tmp_path):
    Image.new("RGB", (100, 60)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"cache_dir .*tiles must not lie in"):
        ready(tmp_path, cache_dir=str(tmp_path / "tiles"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_names_that_no_result_file_can_hold_are_refused_before_the_prediction(tmp_path):
    Image.new("RGB", (10, 10)).save(tmp_path / "a 1.png")
    with pytest.raises(ValueError, match=r"a 1\.png cannot be named in a result file"):
        ready(tmp_path)
    for names in ([], ["ship", "ship"], ["small ship"]):
        with pytest.raises(ValueError, match=r"Classes need names|A class cannot be called"):
            ready(tmp_path, class_names=names)


def test_a_truncated_picture_is_left_out_and_counted(tmp_path):
    noise = torch.randint(256, (60, 60, 3), dtype=torch.uint8).numpy()
    for name in ("a", "b"):
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"unreadable image: 1\)\. The first: .*b\.png"):
        data = ready(tmp_path, strict=False)
    assert data.image_names == ["a"]
    assert len(data.predict_set) == 1

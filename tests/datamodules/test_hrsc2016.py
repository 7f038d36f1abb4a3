import math

import pytest
import torch
from PIL import Image

from datamodules.hrsc2016 import HRSC2016, read_hrsc

NAMES = ("mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang")


def annotation(*ships):
    objects = [
        "".join(f"<{name}>{value}</{name}>" for name, value in zip(NAMES, ship, strict=False))
        + f"<difficult>{ship[5]}</difficult>"
        for ship in ships
    ]
    items = "".join(f"<HRSC_Object>{item}</HRSC_Object>" for item in objects)
    return f"<HRSC_Image><HRSC_Objects>{items}</HRSC_Objects></HRSC_Image>"


def written(root):
    folder = root / "FullDataSet"
    for part in (root / "ImageSets", folder / "AllImages", folder / "Annotations"):
        part.mkdir(parents=True)
    (root / "ImageSets" / "trainval.txt").write_text("100000001\n100000002\n")
    (root / "ImageSets" / "test.txt").write_text("100000002\n")
    Image.new("RGB", (200, 100), (255, 0, 0)).save(folder / "AllImages" / "100000001.bmp")
    Image.new("RGB", (40, 80), (0, 255, 0)).save(folder / "AllImages" / "100000002.bmp")
    (folder / "Annotations" / "100000001.xml").write_text(
        annotation((100, 50, 60, 20, math.pi / 6, 0), (30, 80, 40, 8, 0, 1))
    )
    (folder / "Annotations" / "100000002.xml").write_text(annotation())
    return root


def ready(root, stage, **arguments):
    data = HRSC2016(str(root), **{"image_size": 100, "batch_size": 2, **arguments})
    data.setup(stage)
    return data


def test_images_are_shown_whole(tmp_path):
    data = ready(written(tmp_path), "fit")
    sample = data.train_set[0]
    assert sample["image"].shape == (3, 100, 100)
    assert sample["image"][0, :50].eq(1).all()
    assert sample["image"][:, 50:].mul(255).round().eq(128).all()
    assert sample["difficult"].tolist() == [False, True]
    # 60 x 20 at 30 degrees clockwise around (100, 50), at half size
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    corners = [
        [50 + x * cos - y * sin, 25 + x * sin + y * cos]
        for x, y in ((-15, -5), (15, -5), (15, 5), (-15, 5))
    ]
    assert torch.allclose(sample["quads"][0], torch.tensor(corners))
    assert len(data.train_set[1]["label"]) == 0
    assert data.object_counts == {"ship": 2}
    assert data.val_dataloader() == []


def test_whole_images_in_their_own_pixels(tmp_path):
    root = written(tmp_path)
    (root / "ImageSets" / "both.txt").write_text("100000002\n100000001\n")
    data = ready(root, "test", test="both")
    (batch,) = data.test_dataloader()
    assert batch["image_id"].tolist() == [0, 1]
    assert batch["tile_scale"].tolist() == [1.25, 0.5]
    assert batch["tile_offset"].tolist() == [[0, 0], [0, 0]]
    assert torch.allclose(batch["quads"][1] / 0.5, batch["image_quads"][1])
    assert batch["image_label"].tolist() == [[-1, -1], [0, 0]], "also of the second image"
    assert data.image_names == ["100000002", "100000001"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<HRSC_Image>", r"a.xml is no XML"),
        (annotation((1, 1, 5, "nan", 0, 0)), r"a.xml, object 1: no box of finite mbox_cx"),
        (annotation((1, 1, 5, 5, 0, 0), (1, 1, 5, 0, 0, 0)), r"a.xml, object 2: no box"),
        ("<a><HRSC_Object/></a>", r"a.xml, object 1: no box"),
    ],
)
def test_wrong_labels_are_named(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_hrsc(tmp_path / "a.xml")


def test_a_document_type_that_declares_nothing(tmp_path):
    text = annotation((100, 50, 60, 20, 0, 0))
    for place in ("", ' SYSTEM "hrsc.dtd"'):
        (tmp_path / "a.xml").write_text(f'<?xml version="1.0"?><!DOCTYPE a{place}>{text}')
        assert len(read_hrsc(tmp_path / "a.xml")) == 1


def test_missing_files_are_named(tmp_path):
    root = written(tmp_path)
    (root / "ImageSets" / "test.txt").write_text("100000009")
    with pytest.raises(FileNotFoundError, match=r"100000009.bmp does not exist"):
        ready(root, "test")
    with pytest.raises(FileNotFoundError, match=r"other.txt does not exist"):
        ready(root, "fit", train="other")


@pytest.mark.parametrize("name", ["../../../other", "/etc/hostname", "100000001/../../../x"])
def test_a_name_that_leads_out_of_the_data_is_refused(tmp_path, name):
    root = written(tmp_path / "data")
    (root / "ImageSets" / "trainval.txt").write_text(f"100000001\n{name}\n")
    with pytest.raises(ValueError, match=r"trainval\.txt names '\S+', which does not lie in"):
        ready(root, "fit")

"""Labels in the form of YOLO-OBB."""

import pytest
import torch
from PIL import Image

from datamodules import DOTA, YOLOOBB
from datamodules.dota.classes import CLASS_NAMES
from tests.helpers.data import shared_data

LINE = "1 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75"


def written(root, labels=LINE, part="train", names="names: [plane, storage tank]"):
    for kind in ("images", "labels"):
        (root / kind / part).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (64, 32)).save(root / "images" / part / f"{name}.png")
    (root / "labels" / part / "a.txt").write_text(labels)
    if names is not None:
        (root / "data.yaml").write_text(names)
    return root


def ready(root, **arguments):
    settings = {"image_size": 64, "gap": 16, "val": None, "batch_size": 2}
    data = YOLOOBB(str(root), **{**settings, **arguments})
    data.setup("fit")
    return data


def test_the_objects_and_an_image_without_labels(tmp_path):
    data = ready(written(tmp_path, f"{LINE}\n\n0 0.5 0.75 0.5 0.25 0.25 0.25 0.25 0.75\n"))
    assert list(data.class_names) == ["plane", "storage-tank"]
    assert data.num_classes == 2
    assert data.object_counts == {"plane": 1, "storage-tank": 1}
    (batch,) = data.ordered_train_dataloader()
    assert batch["label"].tolist() == [[1, 0], [-1, -1]]
    assert batch["quads"][0, 0].tolist() == [[16, 8], [32, 8], [32, 24], [16, 24]]
    # corners that go round the other way are put clockwise, the first one staying the first
    assert batch["quads"][0, 1].tolist() == [[32, 24], [16, 24], [16, 8], [32, 8]]


def test_real_labels_are_those_of_the_form_of_dota():
    root = shared_data("dota8", "dota8.yaml").parent
    yolo = ready(root, image_size=1024)
    assert len(yolo.class_names) == 15
    dota = DOTA(str(root), image_size=1024, val=None, batch_size=2)
    dota.setup("fit")
    assert set(yolo.class_names) == set(CLASS_NAMES["1.0"])
    for row in range(4):
        ours, theirs = yolo.train_set[row], dota.train_set[row]
        assert torch.equal(ours["image"], theirs["image"])
        # the tiles of this set keep what they cut, DOTA's kit in whole pixels
        assert len(ours["label"]) == len(theirs["label"])
        names = [{yolo.class_names[k] for k in ours["label"].tolist()}]
        names.append({dota.class_names[k] for k in theirs["label"].tolist()})
        assert names[0] == names[1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("1 0.1 0.1 0.5 0.5", r"a\.txt, line 1: 5 fields instead of 'class x1 y1"),
        (f"{LINE}\n2{LINE[1:]}", r"a\.txt, line 2: 2 is no number of a class, 0 to 1"),
        (f"ship{LINE[1:]}", r"line 1: ship is no number of a class"),
        ("1 a 0 1 0 1 1 0 1", r"line 1: 'a 0 1 0 1 1 0 1' are not eight coordinates"),
        ("1 nan 0 1 0 1 1 0 1", r"line 1: a coordinate is not finite"),
        ("1 0 0 1 0 1 0 0 0", r"line 1: .* enclose no convex area"),
        ("1 16 8 32 8 32 24 16 24", r"line 1: .* lies outside the image, 64 x 32"),
        ("", r"labels/train has no object on any of its 2 images"),
    ],
)
def test_wrong_labels_are_named_by_file_and_line(tmp_path, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        ready(written(tmp_path, labels))


def test_names_may_be_given_or_lie_in_a_file_of_any_name(tmp_path):
    root = written(tmp_path, names=None)
    with pytest.raises(FileNotFoundError, match=r"has no data\.yaml .* or give class_names"):
        ready(root)
    assert ready(root, class_names=["a", "b"]).class_names == ["a", "b"]
    (root / "own.yml").write_text("names: {1: ship, 0: plane}")
    assert ready(root).class_names == ["plane", "ship"]
    for content in ("nc: 2", "names: {1: plane, 2: ship}", "names: [", "- plane"):
        (root / "own.yml").write_text(content)
        with pytest.raises(ValueError, match=r"own\.yml (has no `names`|is not valid YAML)"):
            ready(root)


def test_a_file_beside_the_labels_is_none_of_them(tmp_path):
    root = written(tmp_path)
    (root / "labels" / "train" / "classes.txt").write_text("plane\nship\n")
    assert len(ready(root).train_set) == 2
    (root / "labels" / "train" / "c.txt").write_text(LINE)
    with pytest.raises(ValueError, match=r"c\.txt has no image"):
        ready(root)

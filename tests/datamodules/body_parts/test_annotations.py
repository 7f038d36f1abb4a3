import json
import math
import os
from pathlib import Path

import pytest
import torch

from datamodules.body_parts.annotations import clipped, share_seen
from datamodules.body_parts.bodyhands import MORE_HANDS, NO_BODY, read_bodyhands
from datamodules.body_parts.coco import (
    HUMAN_PARTS,
    read_coco_humanparts,
    read_coco_wholebody,
    read_visible_bodies,
)
from datamodules.body_parts.crowdhuman import read_crowdhuman

DATA = Path(os.environ.get("TRIMTAB_DATA", "/nowhere"))


def saved(folder, content, name="a.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(*annotations, **more):
    images = [{"id": 9, "file_name": "b/1.jpg", "width": 100, "height": 80}]
    entries = [{"id": 5 + k, "image_id": 9, **one} for k, one in enumerate(annotations)]
    return {"images": images, "annotations": entries, **more}


def crowd(*boxes, **more):
    return json.dumps({"ID": "1,a", "gtboxes": list(boxes), **more}) + "\n"


def person(fbox=(10, 10, 20, 40), hbox=(12, 10, 8, 8), **more):
    return {"tag": "person", "fbox": list(fbox), "hbox": list(hbox), **more}


def test_boxes_at_the_border():
    # the right border by 10: width 100 - 1 - 80 = 19
    assert clipped((80, 5, 110, 90), (100, 80)) == (80, 5, 99, 79)
    assert clipped((-4, -6, 10, 9), (100, 80)) == (0, 0, 10, 9)
    assert clipped((80, 5, 100, 80), (100, 80)) == (80, 5, 100, 80), "not beyond it"
    assert clipped((99.5, 5, 110, 9), (100, 80)) is None
    assert clipped((0, 0, 0, 4), None) is None
    assert share_seen((0, 0, 20, 20), (0, 0, 20, 40), None) == 0.5
    assert share_seen((0, 60, 20, 120), (0, 60, 20, 120), (100, 80)) == pytest.approx(1 / 3)


def test_crowdhuman(tmp_path):
    mask = {"tag": "mask", "fbox": [50, 50, 70, 20], "hbox": [50, 50, 9, 9], "extra": {"ignore": 1}}
    lines = [
        crowd(
            person((-5, 10, 25, 40), vbox=[-5, 10, 15, 40]),
            person(head_attr={"ignore": 1}),
            person(extra={"box_id": 0, "ignore": 1}),
            mask,
            person((120, 10, 30, 30)),
        ),
        "\n",
        crowd(ID="2,b"),
    ]
    path = saved(tmp_path, "".join(lines), "annotation_val.odgt")
    one, two = read_crowdhuman(path, lambda name: (100, 80))
    assert (one.name, one.size, two.name) == ("1,a.jpg", (100, 80), "2,b.jpg")
    people = one.people
    assert people.bodies.tolist() == [
        [0, 10, 20, 50],
        [10, 10, 30, 50],
        [10, 10, 30, 50],
        [50, 50, 99, 70],
    ]
    assert people.visible[:, 0].tolist() == [True, False, False, False]
    assert people.part_ignored[:, 0].tolist() == [False, True, False, False]
    assert people.ignored.tolist() == [False, False, True, True]
    assert people.parts[:, 0].tolist()[:2] == [[12, 10, 20, 18]] * 2
    assert people.parts[2:].count_nonzero() == 0
    assert people.visible_ratio[0] == pytest.approx(10 * 40 / (25 * 40))
    assert len(two.people) == 0
    whole = read_crowdhuman(path)[0]
    assert whole.size is None
    assert len(whole.people) == 5


def test_coco_humanparts(tmp_path):
    hier = [0.0] * 30
    hier[0:5] = [10, 5, 20, 15, 1]  # head
    hier[15:20] = [40, 30, 45, 36, 2]  # right hand
    hier[20:25] = [1, 2, 3, 4, 0]  # left foot, absent
    content = coco(
        {"bbox": [5, 5, 50, 60], "iscrowd": 0, "hier": hier, "category_id": 1},
        {"bbox": [0, 0, 90, 20], "iscrowd": 1, "hier": hier, "category_id": 1},
        {"bbox": [0, 0, 0, 20], "category_id": 1},
        {"bbox": [0, 0, 9, 9], "category_id": 3},
        categories=[{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    )
    (image,) = read_coco_humanparts(saved(tmp_path, content))
    assert (image.name, image.size) == ("b/1.jpg", (100, 80))
    assert image.people.bodies.tolist() == [[5, 5, 55, 65], [0, 0, 90, 20]]
    assert image.people.ignored.tolist() == [False, True]
    assert image.people.visible.nonzero().tolist() == [[0, 0], [0, 3]]
    assert image.people.parts[0, 3].tolist() == [40, 30, 45, 36]
    assert HUMAN_PARTS[3] == "right_hand"
    (few,) = read_coco_humanparts(saved(tmp_path, content), ("right_hand", "head"))
    assert few.people.parts[0].tolist() == [[40, 30, 45, 36], [10, 5, 20, 15]]


def test_visible_bodies(tmp_path):
    boxes = {"bbox": [-10, 0, 30, 40], "vbox": [0, 0, 20, 20], "h_bbox": [2, 0, 5, 6]}
    content = coco(
        {**boxes, "f_bbox": [3, 2, 1, 1], "vis_ratio": 0.25, "height": 40, "ignore": 0},
        {**boxes, "f_bbox": [3, 2, 4, 4], "ignore": 1},
        {**boxes, "f_bbox": [3, 2, 4, 4]},
    )
    path = saved(tmp_path, content)
    (image,) = read_visible_bodies(path)
    assert image.people.visible[:, 0].tolist() == [False, False, True]
    assert image.people.ignored.tolist() == [False, True, False]
    assert image.people.visible_ratio.tolist() == pytest.approx([0.25, 1 / 3, 1 / 3])
    assert image.people.bodies[0].tolist() == [0, 0, 20, 40]
    (heads,) = read_visible_bodies(path, ("head", "face"))
    assert heads.people.visible.tolist() == [[True, False], [False, False], [True, True]]


def voc(*objects):
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><body_id>{body}</body_id>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        "</object>"
        for name, body, (x0, y0, x1, y1), difficult in objects
    )
    return f"<annotation>{items}</annotation>"


def hands(folder, *objects):
    (folder / "Annotations").mkdir(exist_ok=True)
    saved(folder / "Annotations", voc(*objects), "a.xml")
    return read_bodyhands(saved(folder, "a\n", "train.txt"), folder / "Annotations")


def test_bodyhands(tmp_path):
    (image,), left_out = hands(
        tmp_path,
        ("hand", 1, (61, 10, 70, 20), 0),
        ("body", 1, (1, 1, 80, 90), 0),
        ("hand", 1, (6, 10, 25, 20), 0),
        ("hand", 1, (30, 10, 33, 12), 0),
        ("body", 2, (91, 1, 120, 90), 0),
        ("hand", 2, (95, 10, 99, 20), 1),
        ("hand", 7, (95, 10, 99, 20), 0),
        ("body", 1, (2, 1, 8, 9), 0),
    )
    assert (image.name, image.size) == ("a.jpg", None)
    people = image.people
    assert people.bodies[:, 0].tolist() == [0, 1, 90], "bodies of one id are together"
    assert people.parts[0, :, 0].tolist() == [5, 60], "the left one first, the small one left out"
    assert people.visible.tolist() == [[True, True], [False, False], [False, False]]
    assert people.part_ignored[2].tolist() == [True, False]
    assert left_out == {MORE_HANDS: 1, NO_BODY: 1}


BOX = "stands where a finite number should"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"a.odgt, line 1 is no JSON"),
        (crowd(person()) + "[1]", r"line 2: a list stands where an object should"),
        (crowd(person()) * 2, r"line 2: 1,a.jpg stands in the file twice"),
        (crowd(person((1, 2, 3))), r"line 1, box 1, fbox: 3 values stand where 4 numbers should"),
        (crowd(person(), person((1, 2, -3, 4))), r"box 2, fbox: a box of a negative size, -3 x 4"),
        (crowd(person((1, 2, math.nan, 4))), r"line 1 is no JSON: NaN is no number of JSON"),
        (crowd(person((1, 2, "x", 4))), rf"fbox: 'x' {BOX}"),
        (crowd(person((1, 2, 1e300, 4))), rf"fbox: 1e\+300 {BOX}"),
        (crowd(ID=3), r"line 1, ID: 3 stands where a name should"),
        (crowd({"fbox": [1, 2, 3, 4]}), r"box 1, tag: nothing stands where a name should"),
        (crowd(person(extra={"ignore": 7})), r"extra.ignore: 7 stands where 0 or 1 should"),
        (json.dumps({"ID": "a"}), r"gtboxes: nothing stands where a list should"),
    ],
)
def test_wrong_lines_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_crowdhuman(saved(tmp_path, text, "a.odgt"))


GOOD = {"bbox": [1, 2, 30, 40]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"a.json is no JSON"),
        ("[]", r"a.json: a list stands where an object should"),
        ({"images": []}, r"a.json, annotations: nothing stands where a list should"),
        (coco({**GOOD, "image_id": 3}), r"annotation 5: no image of the file has its image_id 3"),
        (coco(GOOD, {}), r"annotation 6, bbox: nothing stands where 4 numbers should"),
        (coco({"bbox": [1, 2, 3, -4]}), r"annotation 5, bbox: a box of a negative size, 3 x -4"),
        (coco({**GOOD, "hier": [0] * 29}), r"annotation 5, hier: 29 values stand where 30 numbers"),
        (coco({**GOOD, "hier": [5, 1, 2, 3, 1] * 6}), r"head of hier: a box of a negative size"),
        (coco({**GOOD, "id": "x"}), r"a.json, place 1 has no id, an integer"),
        ({**coco(), "images": [{"id": 1}]}, r"image 1, file_name: nothing stands where a name"),
    ],
)
def test_wrong_annotations_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_coco_humanparts(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([("dog", 1, (1, 2, 3, 4), 0)], r"a.xml, object 1 is called 'dog', and must be a body or"),
        ([("body", 1, (1, 2, 3, 4), 0), ("hand", "", (1, 2, 3, 4), 0)], r"object 2 has no body_id"),
        ([("body", 1, (1, "x", 3, 4), 0)], r"object 1: no box of numbers xmin, ymin, xmax, ymax"),
        ([("body", 1, (1, 2, "nan", 4), 0)], r"object 1: no box of finite xmin"),
        ([("body", 1, (5, 2, 3, 4), 0)], r"object 1: a box without an area, -2 x 2"),
    ],
)
def test_wrong_objects_are_named(tmp_path, objects, message):
    with pytest.raises(ValueError, match=message):
        hands(tmp_path, *objects)


def test_missing_files_are_named(tmp_path):
    for read in (read_crowdhuman, read_coco_wholebody, read_visible_bodies):
        with pytest.raises(FileNotFoundError, match=r"none.json does not exist"):
            read(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"b.xml does not exist"):
        read_bodyhands(saved(tmp_path, "b", "test.txt"), tmp_path)
    with pytest.raises(ValueError, match=r"test.txt names '../b.xml', which does not lie in"):
        read_bodyhands(saved(tmp_path, "../b", "test.txt"), tmp_path)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the real data in TRIMTAB_DATA")
def test_real_annotations():
    folder = DATA / "crowdhuman_annotation"
    sizes = json.loads((folder / "id_hw_train.json").read_text())
    (height, width) = sizes["283554,35288000868e92d4"]
    odgt = folder / "test_annotation_train.odgt"
    (image,) = read_crowdhuman(odgt, lambda name: (width, height))
    assert image.people.ignored.tolist() == [False] * 6 + [True]
    assert image.people.visible[:, 0].tolist() == [True] * 6 + [False]
    assert image.people.bodies[1].tolist() == [792, 24, 1515, 1355]
    assert image.people.visible_ratio[1] == pytest.approx(1332 / 2017)
    images = read_coco_wholebody(
        DATA / "coco_wholebody_sample" / "annotations" / "test_coco_wholebody.json"
    )
    assert len(images) == 4
    visible = torch.cat([image.people.visible for image in images])
    assert len(visible) == 14
    assert visible.sum(0).tolist() == [4, 5, 5]
    crowds = read_coco_wholebody(DATA / "crowdpose_sample" / "test_crowdpose.json")
    assert [len(image.people) for image in crowds] == [3, 2]
    assert not any(image.people.visible.any() for image in crowds), "bodies alone"

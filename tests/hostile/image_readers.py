"""Readers of images and of oriented objects in them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.container_mutations import change_tar
from tests.hostile.mutations import BYTES, change_xml
from tests.hostile.registry import (
    JSON,
    TEXTS,
    YAML,
    packed,
    reader,
)

# ---- images --------------------------------------------------------------------------------------


def image(kind: str, mode: str = "RGB") -> bytes:
    """Return a small picture in a format of PIL."""
    from PIL import Image

    pixels = np.add.outer(np.arange(20) * 5, np.arange(24) * 3).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if mode == "I;16":
        picture = Image.fromarray(pixels.astype(np.uint16) * 256)
    elif mode == "F":
        picture = Image.fromarray(pixels.astype(np.float32) / 255)
    elif mode != "L":
        picture = picture.convert(mode)
    options: dict[str, Any] = {}
    if kind in ("JPEG", "PNG", "WEBP") and mode == "RGB":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    return packed(lambda file: picture.save(file, format=kind, **options))


IMAGES = (
    ("png", "PNG", "RGB"),
    ("png-16", "PNG", "I;16"),
    ("png-palette", "PNG", "P"),
    ("jpeg", "JPEG", "RGB"),
    ("bmp", "BMP", "RGB"),
    ("gif", "GIF", "P"),
    ("tiff", "TIFF", "RGB"),
    ("tiff-float", "TIFF", "F"),
    ("webp", "WEBP", "RGB"),
    ("ppm", "PPM", "RGB"),
)
for _name, _kind, _mode in IMAGES:

    @reader(
        f"image-{_name}",
        lambda kind=_kind, mode=_mode: {f"a.{kind.lower()}": image(kind, mode)},
        [
            "framework.data.image_files:_opened",
            "framework.data.image_files:_file",
            "framework.data.origin:origin_of",
        ],
        BYTES,
    )
    def _(folder: Path) -> Any:
        from framework.data.image_files import decode_image, image_size, intact_images
        from framework.data.origin import origin_of

        (path,) = folder.iterdir()
        origin_of(path)
        image_size(path)
        decode_image(path)
        intact_images([path], folder)


def tar(content: dict[str, bytes], form: int) -> bytes:
    """Return files as a tar file."""

    def write(target: io.BytesIO) -> None:
        with tarfile.open(fileobj=target, mode="w", format=form) as file:
            for name, value in content.items():
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(value), 1.5  # type: ignore[assignment]
                file.addfile(info, io.BytesIO(value))

    return packed(write)


@reader(
    "tars",
    lambda: {
        "train-0.tar": tar(
            {
                "1.png": image("PNG"),
                "1.cls": b"7",
                "2.jpg": image("JPEG"),
                "2.json": json.dumps({"label": "ship"}).encode(),
            },
            tarfile.PAX_FORMAT,
        ),
        "test.tar": tar({"7/1.tiff": image("TIFF")}, tarfile.GNU_FORMAT),
    },
    [
        "framework.data.tar_files:Member.open",
        "framework.data.tar_files:members_of",
        "framework.data.tar_images:_labels",
        "framework.data.image_files:_file",
        "framework.utilities.json_files:parse_json",
    ],
    (*[change_tar((*JSON, *TEXTS))] * 3, *BYTES),
)
def _(folder: Path) -> Any:
    from datamodules import ImageTars

    parts = ImageTars(str(folder), image_size=8).read()
    return [part[row] for part in parts if part is not None for row in range(len(part))]


@reader(
    "tile-cache",
    lambda: {
        "tiling.json": json.dumps({"window": 16, "gray": [128, 128, 128]}).encode(),
        "a__1__0___0.png": image("PNG"),
    },
    [
        "datamodules.dota.tile_set:TileCache.__init__",
        "framework.utilities.json_files:read_json",
        "framework.utilities.json_files:parse_json",
    ],
    (*JSON, *BYTES),
)
def _(folder: Path) -> Any:
    from datamodules.dota.tile_set import TileCache, Tiling, _source_of

    TileCache(folder, Tiling(16, gap=0))
    _source_of(folder / "a__1__0___0.png")


# ---- oriented objects ----------------------------------------------------------------------------

DOTA = b"imagesource:x\ngsd:0.1\n1 1 8 1 8 5 1 5 ship 0\n2 2 9 2 9 6 2 6 plane 1\n"


@reader(
    "dota",
    lambda: {"P1.txt": DOTA},
    ["datamodules.dota.labels:read_lines", "framework.utilities.limits:read_text"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from datamodules.dota.labels import read_labels

    return read_labels(folder / "P1.txt", ["ship", "plane"], size=(24, 20))


@reader(
    "yolo-obb",
    lambda: {
        "data.yaml": b"path: .\ntrain: images\nnames: {0: ship, 1: storage tank}\n",
        "P1.txt": b"0 .1 .1 .4 .1 .4 .3 .1 .3\n1 .2 .2 .5 .2 .5 .4 .2 .4\n",
    },
    ["datamodules.yolo_obb:read_names", "datamodules.dota.labels:read_lines"],
    YAML,
    is_direct=False,
)
def _(folder: Path) -> Any:
    from datamodules.dota.labels import objects_of_lines, read_lines
    from datamodules.yolo_obb import YOLOOBB, read_names

    data = YOLOOBB(str(folder), class_names=read_names(folder))
    return data, objects_of_lines, read_lines


HRSC = "<HRSC_Image><HRSC_Objects>{}</HRSC_Objects></HRSC_Image>".format(
    "".join(
        "<HRSC_Object><mbox_cx>9</mbox_cx><mbox_cy>9</mbox_cy><mbox_w>6</mbox_w>"
        f"<mbox_h>3</mbox_h><mbox_ang>0.{k}</mbox_ang><difficult>{k}</difficult></HRSC_Object>"
        for k in range(2)
    )
).encode()


@reader(
    "hrsc",
    lambda: {"1.xml": b"<?xml version='1.0' encoding='UTF-8'?>\n" + HRSC},
    ["datamodules.hrsc2016:read_hrsc", "framework.utilities.xml_files:read_xml"],
    (*[change_xml] * 4, *TEXTS),
)
def _(folder: Path) -> Any:
    from datamodules.hrsc2016 import read_hrsc

    return read_hrsc(folder / "1.xml")


@reader(
    "hrsc-part",
    lambda: {
        "ImageSets/test.txt": b"1\n",
        "FullDataSet/AllImages/1.bmp": image("BMP"),
        "FullDataSet/Annotations/1.xml": HRSC,
    },
    ["datamodules.hrsc2016:HRSC2016._part", "datamodules.hrsc2016:read_hrsc"],
    (change_xml, *TEXTS),
)
def _(folder: Path) -> Any:
    from datamodules import HRSC2016

    data = HRSC2016(str(folder), image_size=32, train=None, val=None, test="test")
    data.setup("test")
    return data.test_set[0]


# ---- people --------------------------------------------------------------------------------------

BODY = {"bbox": [1, 2, 12, 14], "id": 3, "image_id": 1, "iscrowd": 0, "category_id": 1}


def _coco(**fields: Any) -> bytes:
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 24, "height": 20}],
        "annotations": [BODY | fields, {**BODY, "id": 4, "iscrowd": 1}],
        "categories": [{"id": 1, "name": "person"}],
    }
    return json.dumps(content).encode()


def _people(name: str, function: str, content: bytes) -> None:
    @reader(
        name,
        lambda: {"1.json": content},
        [
            "datamodules.body_parts.coco:read_coco",
            "framework.utilities.json_files:read_json",
            "framework.utilities.json_files:parse_json",
        ],
        JSON,
    )
    def _(folder: Path) -> Any:
        from datamodules.body_parts import coco

        return getattr(coco, function)(folder / "1.json")


_people("coco-humanparts", "read_coco_humanparts", _coco(hier=[1, 2, 5, 6, 1] * 6))
_people(
    "coco-wholebody",
    "read_coco_wholebody",
    _coco(face_box=[2, 3, 4, 5], face_valid=True, lefthand_box=[0] * 4, lefthand_valid=False),
)
_people(
    "visible-bodies",
    "read_visible_bodies",
    _coco(vbox=[1, 2, 6, 7], h_bbox=[2, 2, 5, 5], f_bbox=[2, 2, 1, 1], vis_ratio=0.5, ignore=0),
)


@reader(
    "crowdhuman",
    lambda: {
        "annotation_val.odgt": json.dumps(
            {
                "ID": "1,a",
                "gtboxes": [
                    {
                        "tag": "person",
                        "fbox": [-2, 3, 12, 14],
                        "vbox": [0, 3, 10, 8],
                        "hbox": [2, 3, 4, 4],
                        "head_attr": {"ignore": 0},
                        "extra": {"box_id": 0},
                    },
                    {"tag": "mask", "fbox": [1, 2, 3, 4], "extra": {"ignore": 1}},
                ],
            }
        ).encode(),
        "Images/1,a.jpg": image("JPEG"),
    },
    [
        "datamodules.body_parts.crowdhuman:_lines",
        "datamodules.body_parts.crowdhuman:read_crowdhuman",
        "framework.utilities.json_files:parse_json",
    ],
    JSON,
)
def _(folder: Path) -> Any:
    from datamodules import BodyParts

    data = BodyParts(str(folder), "crowdhuman", image_size=32, train=None)
    data.setup("validate")
    return data.val_set[0]


BODYHANDS = "<annotation>{}</annotation>".format(
    "".join(
        f"<object><name>{name}</name><difficult>0</difficult><body_id>1</body_id><bndbox>"
        "<xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>12</ymax></bndbox></object>"
        for name in ("body", "hand")
    )
).encode()


@reader(
    "bodyhands",
    lambda: {"ImageSets/Main/test.txt": b"1\n", "Annotations/1.xml": BODYHANDS},
    [
        "datamodules.body_parts.bodyhands:read_bodyhands",
        "datamodules.body_parts.bodyhands:_image",
        "framework.utilities.xml_files:read_xml",
    ],
    (*[change_xml] * 4, *TEXTS),
)
def _(folder: Path) -> Any:
    from datamodules.body_parts import read_bodyhands

    return read_bodyhands(folder / "ImageSets" / "Main" / "test.txt", folder / "Annotations")


@reader(
    "dota-results",
    lambda: {"Task1_ship.txt": b"P1 0.75 0 0 8 0 8 4 0 4\nP1 0.5 0 0 8 0 8 4 0 4\n"},
    ["framework.detection.result_files:read_results"],
    TEXTS,
)
def _(folder: Path) -> Any:
    from framework.detection.result_files import read_results

    return read_results(folder, ["P1"], ["ship"])

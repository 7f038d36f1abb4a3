"""Drawn crowds as files in the forms of CrowdHuman and of COCO Human Parts."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from framework.detection.body_parts.people import People, PeopleTable
from framework.detection.pictures import write_picture
from framework.utilities.files import make_folder, write_atomically, write_text

HEAD, FIRST_HAND, SECOND_HAND = range(3)
HIER = (HEAD, None, SECOND_HAND, FIRST_HAND, None, None)
"""Slot of head, face, left and right hand, left and right foot: people face the viewer."""
Numbers = list[float]


def write_odgt(root: Path, part: str, images: Tensor, people: PeopleTable) -> None:
    """Write crowds in the form of CrowdHuman, without their hands, which it does not have.

    A visible box (``vbox``) is the upper part of what the picture shows of the full one, as large
    as the share of the body that is seen. Pictures are JPEG files, as CrowdHuman's are.

    Args:
        root: Folder of ``annotation_<part>.odgt`` and ``Images``.
        part: Name of the part of the data set.
        images: Pictures (N, 3, H, W) uint8.
        people: People on the N pictures, the head in slot 0.
    """
    make_folder(root / "Images")
    lines = []
    for number, image in enumerate(images):
        name = f"{part}{number:05}"
        _write_jpeg(image, root / "Images" / f"{name}.jpg")
        boxes = _gtboxes(people[number], (image.shape[2], image.shape[1]))
        lines.append(json.dumps({"ID": name, "gtboxes": boxes}) + "\n")
    write_text(root / f"annotation_{part}.odgt", "".join(lines))


def _write_jpeg(image: Tensor, path: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    write_atomically(path, lambda file: picture.save(file, format="jpeg", quality=95))


def _gtboxes(people: People, size: tuple[int, int]) -> list[dict[str, object]]:
    boxes: list[dict[str, object]] = []
    for number, (body, ratio) in enumerate(
        zip(people.bodies.tolist(), people.visible_ratio.tolist(), strict=True)
    ):
        full = _extent(body)
        shown = [max(body[0], 0), max(body[1], 0), min(body[2], size[0]), min(body[3], size[1])]
        seen = _extent(shown)
        seen[3] *= min(1, ratio * full[2] * full[3] / (seen[2] * seen[3]))
        has_head = bool(people.visible[number, HEAD])
        boxes.append(
            {
                "tag": "person",
                "fbox": full,
                "vbox": seen,
                "hbox": _extent(people.parts[number, HEAD].tolist()),
                "head_attr": {"ignore": int(not has_head), "occ": 0, "unsure": 0},
                "extra": {"box_id": number, "occ": int(ratio < 1)},
            }
        )
    return boxes


def write_coco(root: Path, part: str, images: Tensor, people: PeopleTable) -> None:
    """Write crowds in the form of COCO Human Parts, without the parts that are not drawn.

    Args:
        root: Folder of ``annotations/person_humanparts_<part>2017.json`` and ``<part>2017``.
        part: Name of the part of the data set.
        images: Pictures (N, 3, H, W) uint8.
        people: People on the N pictures with a head and two hands, the first of which is written as
            the right one.
    """
    pictures, annotations = root / f"{part}2017", root / "annotations"
    for folder in (pictures, annotations):
        make_folder(folder)
    listed: list[dict[str, object]] = []
    persons: list[dict[str, object]] = []
    for number, image in enumerate(images):
        name = f"{number:012}.png"
        write_picture(image, pictures / name)
        height, width = image.shape[1:]
        listed.append({"id": number, "file_name": name, "width": width, "height": height})
        found = people[number]
        for row, body in enumerate(found.bodies.tolist()):
            box = _extent(body)
            persons.append(
                {
                    "id": len(persons) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "hier": _hier(found, row),
                }
            )
    content = {
        "images": listed,
        "annotations": persons,
        "categories": [{"id": 1, "name": "person"}],
    }
    write_text(annotations / f"person_humanparts_{part}2017.json", json.dumps(content))


def _hier(people: People, row: int) -> Numbers:
    values: Numbers = []
    for slot in HIER:
        if slot is None or not people.visible[row, slot]:
            values += [0, 0, 0, 0, 0]
        else:
            values += [*people.parts[row, slot].tolist(), 1]
    return values


def _extent(box: Numbers) -> Numbers:
    """Return left, top, width and height of a box of left, top, right and bottom."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

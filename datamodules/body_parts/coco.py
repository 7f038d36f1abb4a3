"""People in the JSON form of COCO, with one of three kinds of boxes of their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.body_parts.annotations import (
    AnnotatedImage,
    Box,
    Person,
    box_of_corners,
    box_of_size,
    clipped,
    flag,
    mapping,
    numbers,
    people_from,
    sequence,
    share_seen,
    text,
)
from framework.data.folders import existing_file
from framework.utilities.json_files import read_json

HUMAN_PARTS = ("head", "face", "left_hand", "right_hand", "left_foot", "right_foot")
"""Parts of COCO Human Parts, in the order of ``hier``."""
WHOLE_BODY_PARTS = {"face": "face", "left_hand": "lefthand", "right_hand": "righthand"}
"""Parts of COCO-WholeBody that have boxes, and how their fields begin."""
VISIBLE_BODY_PARTS = {"head": "h_bbox", "face": "f_bbox"}
"""Parts in the files of BFJDet, and their fields."""

_ReadPerson = Callable[[Mapping[str, Any], "tuple[int, int]", str], "Person | None"]


def read_coco_humanparts(path: Path, parts: Sequence[str] = HUMAN_PARTS) -> list[AnnotatedImage]:
    """Return the images of COCO Human Parts: COCO's persons with up to six parts in ``hier``.

    A crowd (``iscrowd``) is a region without labels. Of a part, ``hier`` has left, top, right,
    bottom and 0 where it is absent.

    Args:
        path: File.
        parts: Part of each slot, out of ``HUMAN_PARTS``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: By file and annotation, what ``read_coco`` refuses, or a ``hier`` that is not of
            30 finite numbers, or has a box of a negative size.
    """

    def person(entry: Mapping[str, Any], size: tuple[int, int], place: str) -> Person | None:
        found: dict[str, Box | None] = {}
        if entry.get("hier") is not None:
            values = numbers(entry["hier"], 30, f"{place}, hier")
            for number, name in enumerate(HUMAN_PARTS):
                *corners, visible = values[5 * number : 5 * number + 5]
                if visible > 0:
                    found[name] = _there(box_of_corners(corners, f"{place}, {name} of hier"))
        return _person(entry, [found.get(name) for name in parts], place)

    return read_coco(path, person, len(parts))


def read_coco_wholebody(
    path: Path, parts: Sequence[str] = tuple(WHOLE_BODY_PARTS)
) -> list[AnnotatedImage]:
    """Return the images of COCO-WholeBody: COCO's persons with their faces and hands.

    A crowd (``iscrowd``) is a region without labels. A part is absent where its ``*_valid`` is
    false. Feet have key points and no boxes, and are not read.

    Args:
        path: File.
        parts: Part of each slot, out of ``WHOLE_BODY_PARTS``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: By file and annotation, what ``read_coco`` refuses, or a box of a part that is
            not of four finite numbers, or of a negative size.
    """

    def person(entry: Mapping[str, Any], size: tuple[int, int], place: str) -> Person | None:
        found: list[Box | None] = []
        for name in (WHOLE_BODY_PARTS[part] for part in parts):
            valid = flag(entry.get(f"{name}_valid"), f"{place}, {name}_valid")
            box = entry.get(f"{name}_box")
            found.append(_there(box_of_size(box, f"{place}, {name}_box")) if valid else None)
        return _person(entry, found, place)

    return read_coco(path, person, len(parts))


def read_visible_bodies(path: Path, parts: Sequence[str] = ("face",)) -> list[AnnotatedImage]:
    """Return the images of a file of BFJDet, which are those of CityPersons and CrowdHuman.

    A body is the full box ``bbox``, of which ``vis_ratio`` or else the share ``vbox`` is seen, with
    its head ``h_bbox`` or face ``f_bbox``: a box of 1 x 1 stands for one that is absent. All are
    clipped to the image, see ``clipped``, and a body of which nothing is left is left out. One with
    ``ignore`` is a region without labels.

    Args:
        path: File.
        parts: Part of each slot, ``head`` or ``face``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: By file and annotation, what ``read_coco`` refuses, a box that is not of four
            finite numbers, or of a negative size, or a ``vis_ratio`` outside 0..1.
    """

    def person(entry: Mapping[str, Any], size: tuple[int, int], place: str) -> Person | None:
        full = box_of_size(entry.get("bbox"), f"{place}, bbox")
        body = clipped(full, size)
        if body is None:
            return None
        ignored = any(flag(entry.get(k), f"{place}, {k}") for k in ("ignore", "iscrowd"))
        found: list[Box | None] = []
        for name in (VISIBLE_BODY_PARTS[part] for part in parts):
            if ignored:
                found.append(None)
                continue
            box = box_of_size(entry.get(name), f"{place}, {name}")
            is_there = max(box[2] - box[0], box[3] - box[1]) > 1
            found.append(clipped(box, size) if is_there else None)
        share = 1.0
        if entry.get("vis_ratio") is not None:
            (share,) = numbers([entry["vis_ratio"]], 1, f"{place}, vis_ratio")
            if not 0 <= share <= 1:
                raise ValueError(f"{place}: vis_ratio must lie in 0..1, and is {share:g}.")
        elif entry.get("vbox") is not None:
            share = share_seen(box_of_size(entry["vbox"], f"{place}, vbox"), full, size)
        return Person(body, found, [False] * len(parts), share, ignored)

    return read_coco(path, person, len(parts))


def read_coco(path: Path, person: _ReadPerson, num_slots: int) -> list[AnnotatedImage]:
    """Return the images of a JSON file in the form of COCO, with the people on them.

    Annotations of other categories than ``person`` are left out, where the file has that one.

    Args:
        path: File.
        person: Function from an annotation, the width and height of its image and the place of the
            annotation to a person, or to None for none.
        num_slots: Parts that a person has a place for.

    Raises:
        FileNotFoundError: No such file.
        ValueError: By file and annotation, another form, or an annotation of an unknown image.
    """
    content = mapping(read_json(existing_file(path)), str(path))
    images: dict[int, tuple[str, tuple[int, int]]] = {}
    for number, value in enumerate(sequence(content.get("images"), f"{path}, images"), start=1):
        place = f"{path}, image {number}"
        entry = mapping(value, place)
        name = text(entry.get("file_name"), f"{place}, file_name")
        size = (_pixels(entry, "width", place), _pixels(entry, "height", place))
        images[_identity(entry, "id", place)] = (name, size)
    human = _categories_of_people(content, path)
    people: dict[int, list[Person]] = {image: [] for image in images}
    values = sequence(content.get("annotations"), f"{path}, annotations")
    for number, value in enumerate(values, start=1):
        entry = mapping(value, f"{path}, annotation at place {number}")
        place = f"{path}, annotation {_identity(entry, 'id', f'{path}, place {number}')}"
        if human and entry.get("category_id") not in human:
            continue
        image = _identity(entry, "image_id", place)
        if image not in images:
            raise ValueError(f"{place}: no image of the file has its image_id {image}.")
        found = person(entry, images[image][1], place)
        if found is not None:
            people[image].append(found)
    return [
        AnnotatedImage(name, size, people_from(people[image], num_slots))
        for image, (name, size) in images.items()
    ]


def _person(entry: Mapping[str, Any], parts: Sequence[Box | None], place: str) -> Person | None:
    body = _there(box_of_size(entry.get("bbox"), f"{place}, bbox"))
    crowd = flag(entry.get("iscrowd"), f"{place}, iscrowd")
    shown = [None if crowd else part for part in parts]
    return None if body is None else Person(body, shown, [False] * len(shown), ignored=crowd)


def _there(box: Box) -> Box | None:
    """Return a box, or None where it has no area."""
    return clipped(box, None)


def _categories_of_people(content: Mapping[str, Any], path: Path) -> list[int]:
    categories = sequence(content.get("categories", []), f"{path}, categories")
    entries = [mapping(value, f"{path}, categories") for value in categories]
    return [
        _identity(entry, "id", f"{path}, categories")
        for entry in entries
        if entry.get("name") == "person"
    ]


def _identity(entry: Mapping[str, Any], name: str, place: str) -> int:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not abs(value) < 2**63:
        raise ValueError(f"{place} has no {name}, an integer.")
    return value


def _pixels(entry: Mapping[str, Any], name: str, place: str) -> int:
    value = _identity(entry, name, place)
    if not 0 < value < 10**6:
        raise ValueError(f"{place}: {name} must be a number of pixels, and is {value}.")
    return value

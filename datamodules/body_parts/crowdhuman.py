"""CrowdHuman: crowds with the boxes of bodies, what is seen of them, and heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datamodules.body_parts.annotations import (
    AnnotatedImage,
    Person,
    box_of_size,
    clipped,
    flag,
    mapping,
    people_from,
    sequence,
    share_seen,
    text,
)
from framework.data.folders import existing_file
from framework.utilities.json_files import BYTES_PER_CHARACTER, parse_json
from framework.utilities.limits import check_size, memory_foreseen, open_file

SizeOf = Callable[[str], tuple[int, int]]
"""Returns the width and height of an image, by its name."""


def read_crowdhuman(path: Path, size_of: SizeOf | None = None) -> list[AnnotatedImage]:
    """Return the images of an ``.odgt`` file, one object of JSON per line.

    A body is the full box (``fbox``), and its only part the head (``hbox``); both are clipped to
    the image, see ``clipped``, and a body of which nothing is left is left out. Of a body the share
    ``vbox``, as far as the image shows it, is seen. A mask, and a box with ``extra.ignore``, is a
    region without labels; a head with ``head_attr.ignore`` is neither learned nor scored.

    Args:
        path: File.
        size_of: Function from the name of an image to its width and height, which the file does not
            say; without it, boxes are not clipped.

    Raises:
        FileNotFoundError: No such file.
        ValueError: By file and line, no JSON or another form, a box that is not of four finite
            numbers, or of a negative size; or an image that is listed twice.

    Example:
        >>> import json, tempfile
        >>> box = {"tag": "person", "fbox": [-5, 2, 15, 30], "vbox": [0, 2, 10, 15]}
        >>> line = {"ID": "273271,c9db", "gtboxes": [{**box, "hbox": [1, 2, 4, 5]}]}
        >>> path = Path(tempfile.mkdtemp()) / "annotation_val.odgt"
        >>> _ = path.write_text(json.dumps(line))
        >>> (image,) = read_crowdhuman(path, lambda name: (64, 48))
        >>> image.name, image.people.bodies.tolist(), round(float(image.people.visible_ratio), 4)
        ('273271,c9db.jpg', [[0.0, 2.0, 10.0, 32.0]], 0.3333)
    """
    images: dict[str, AnnotatedImage] = {}
    for place, line in _lines(path):
        entry = mapping(parse_json(line, place), place)
        name = f"{text(entry.get('ID'), f'{place}, ID')}.jpg"
        if name in images:
            raise ValueError(f"{place}: {name} stands in the file twice.")
        size = None if size_of is None else size_of(name)
        boxes = sequence(entry.get("gtboxes"), f"{place}, gtboxes")
        found = [
            _person(box, size, f"{place}, box {number}")
            for number, box in enumerate(boxes, start=1)
        ]
        people = people_from([person for person in found if person is not None], num_slots=1)
        images[name] = AnnotatedImage(name, size, people)
    return list(images.values())


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with open_file(existing_file(path)) as file, memory_foreseen(path):
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number}"
            check_size(place, BYTES_PER_CHARACTER * len(line), "its values")
            if line.strip():
                yield place, line


def _person(box: Any, size: tuple[int, int] | None, place: str) -> Person | None:
    entry = mapping(box, place)
    full = box_of_size(entry.get("fbox"), f"{place}, fbox")
    body = clipped(full, size)
    if body is None:
        return None
    tag = text(entry.get("tag"), f"{place}, tag")
    extra = mapping(entry.get("extra", {}), f"{place}, extra")
    ignored = tag == "mask" or flag(extra.get("ignore"), f"{place}, extra.ignore")
    head, head_ignored, share = None, False, 1.0
    if not ignored:
        attributes = mapping(entry.get("head_attr", {}), f"{place}, head_attr")
        head_ignored = flag(attributes.get("ignore"), f"{place}, head_attr.ignore")
        if "hbox" in entry:
            head = clipped(box_of_size(entry["hbox"], f"{place}, hbox"), size)
        if "vbox" in entry:
            share = share_seen(box_of_size(entry["vbox"], f"{place}, vbox"), full, size)
    return Person(body, [head], [head_ignored], share, ignored)

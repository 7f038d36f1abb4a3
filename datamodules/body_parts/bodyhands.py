"""BodyHands: people with up to two hands each, in the XML form of Pascal VOC."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from datamodules.body_parts.annotations import (
    FARTHEST,
    AnnotatedImage,
    Box,
    Person,
    area,
    people_from,
)
from framework.data.folders import existing_file
from framework.utilities.files import path_below
from framework.utilities.limits import read_text
from framework.utilities.xml_files import read_xml

_BYTES_PER_CHARACTER = 64
"""Bytes that a character of a list becomes at most, as lines of one."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
MORE_HANDS = "hands beyond the two largest of a body"
NO_BODY = "hands without a body"


def read_bodyhands(listed: Path, labels: Path) -> tuple[list[AnnotatedImage], Counter[str]]:
    """Return the images of a part of BodyHands, and how many hands were left out, by the reason.

    A hand belongs to the body of its ``body_id``, the first one of a file where several have it. Of
    more than two hands the two largest are kept, and a hand without a body is no one's part, so
    that it is not read. The first slot is that of the hand whose box begins further to the left,
    and that of a single hand. A ``difficult`` hand is neither learned nor scored.

    Args:
        listed: List of names, one per line, such as ``ImageSets/Main/train.txt``.
        labels: Folder of the ``.xml`` files, ``Annotations``.

    Raises:
        FileNotFoundError: The list or a file of labels is not there.
        ValueError: A name that leads out of the folder, a file that is no XML, or by file and
            number of the object, one that is no box with a ``body_id``.
    """
    lines = read_text(existing_file(listed), _BYTES_PER_CHARACTER, "its names").splitlines()
    names = [line.split()[0] for line in lines if line.strip()]
    left_out: Counter[str] = Counter()
    return [
        _image(f"{name}.jpg", path_below(labels, f"{name}.xml", listed), left_out) for name in names
    ], left_out


def _image(name: str, path: Path, left_out: Counter[str]) -> AnnotatedImage:
    bodies: dict[str, list[Box]] = {}
    hands: dict[str, list[tuple[Box, bool]]] = {}
    for number, item in enumerate(read_xml(existing_file(path)).iter("object"), start=1):
        place = f"{path}, object {number}"
        kind = item.findtext("name", "").strip()
        owner = item.findtext("body_id", "").strip()
        if not owner:
            raise ValueError(f"{place} has no body_id.")
        box = _box(item, place)
        if kind == "body":
            bodies.setdefault(owner, []).append(box)
        elif kind == "hand":
            difficult = item.findtext("difficult", "0").strip() == "1"
            hands.setdefault(owner, []).append((box, difficult))
        else:
            raise ValueError(f"{place} is called {kind[:60]!r}, and must be a body or a hand.")
    persons = []
    for owner, boxes in bodies.items():
        for number, body in enumerate(boxes):
            found = hands.pop(owner, []) if number == 0 else []
            # of equally large ones the first
            kept = sorted(found, key=lambda hand: -area(hand[0]))[:2]
            left_out[MORE_HANDS] += len(found) - len(kept)
            kept.sort(key=lambda hand: hand[0][0])
            absent = 2 - len(kept)
            persons.append(
                Person(
                    body,
                    [*(box for box, _ in kept), *[None] * absent],
                    [*(difficult for _, difficult in kept), *[False] * absent],
                )
            )
    left_out[NO_BODY] += sum(len(found) for found in hands.values())
    return AnnotatedImage(name, None, people_from(persons, num_slots=2))


def _box(item: ElementTree.Element, place: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(item.findtext(f"bndbox/{name}", "")) for name in _CORNERS)
    except ValueError:
        raise ValueError(f"{place}: no box of numbers {', '.join(_CORNERS)}.") from None
    if not all(abs(side) <= FARTHEST for side in (x0, y0, x1, y1)):
        raise ValueError(f"{place}: no box of finite {', '.join(_CORNERS)}.")
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"{place}: a box without an area, {x1 - x0:g} x {y1 - y0:g}.")
    # the corners are pixels, numbered from 1 and inside of the box
    return x0 - 1, y0 - 1, x1, y1

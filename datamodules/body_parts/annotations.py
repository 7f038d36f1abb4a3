"""Checked values of annotation files, and what they become: the people of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from framework.detection.body_parts.people import People

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""
FARTHEST = 1e9
"""Pixels that a box is away at most; a number of single precision may have 38 digits."""


class AnnotatedImage(NamedTuple):
    """An image of a data set, and who is on it.

    Args:
        name: Path of the image in the folder of images.
        size: Width and height in pixels, or None where the annotation does not say.
        people: People on it, in pixels of the image.
    """

    name: str
    size: tuple[int, int] | None
    people: People


class Person(NamedTuple):
    """A person as one annotation says.

    Args:
        body: Box of the body, or the region without labels.
        parts: Box of the part in each slot, None where it is absent.
        part_ignored: Whether the part in each slot is neither learned nor scored.
        visible_ratio: Share of the body that is seen.
        ignored: Whether the box is a region without labels.
    """

    body: Box
    parts: Sequence[Box | None]
    part_ignored: Sequence[bool]
    visible_ratio: float = 1.0
    ignored: bool = False


def people_from(persons: Sequence[Person], num_slots: int) -> People:
    """Return the people of an image; no part of an ignored one is visible.

    Example:
        >>> person = Person((0, 0, 4, 9), [(1, 0, 3, 2), None], [False, False])
        >>> people_from([person], num_slots=2).visible
        tensor([[ True, False]])
    """
    if not persons:
        return People.none(num_slots)
    there = torch.tensor([[part is not None for part in one.parts] for one in persons])
    part_ignored = torch.tensor([list(one.part_ignored) for one in persons]) & there
    ignored = torch.tensor([one.ignored for one in persons])
    return People(
        bodies=torch.tensor([one.body for one in persons], dtype=torch.float32),
        parts=torch.tensor(
            [[part or (0, 0, 0, 0) for part in one.parts] for one in persons], dtype=torch.float32
        ),
        visible=there & ~part_ignored & ~ignored[:, None],
        part_ignored=part_ignored,
        visible_ratio=torch.tensor([one.visible_ratio for one in persons], dtype=torch.float32),
        ignored=ignored,
    )


def mapping(value: Any, place: str) -> Mapping[str, Any]:
    """Return a value that must be an object of JSON.

    Args:
        value: Value.
        place: File and line, or annotation, for the message.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: {_said(value)} stands where an object should.")
    return value


def sequence(value: Any, place: str) -> Sequence[Any]:
    """Return a value that must be a list.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, list):
        raise ValueError(f"{place}: {_said(value)} stands where a list should.")
    return value


def text(value: Any, place: str) -> str:
    """Return a value that must be a name of one line.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{place}: {_said(value)} stands where a name should.")
    return value


def flag(value: Any, place: str) -> bool:
    """Return a value that must be 0, 1, true or false; what is not there is False.

    Raises:
        ValueError: It is something else.
    """
    if value is not None and (not isinstance(value, (bool, int)) or value not in (0, 1)):
        raise ValueError(f"{place}: {_said(value)} stands where 0 or 1 should.")
    return bool(value)


def numbers(value: Any, count: int, place: str) -> list[float]:
    """Return a value that must be a list of finite numbers.

    Args:
        value: Value.
        count: Length of the list.
        place: File, annotation and field, for the message.

    Raises:
        ValueError: It is something else.

    Example:
        >>> numbers([1, 2.5], 2, "a.json, annotation 7, bbox")
        [1.0, 2.5]
        >>> numbers([1, 2, 3], 2, "a.json, annotation 7, bbox")
        Traceback (most recent call last):
        ValueError: a.json, annotation 7, bbox: 3 values stand where 2 numbers should.
    """
    if not isinstance(value, list):
        raise ValueError(f"{place}: {_said(value)} stands where {count} numbers should.")
    if len(value) != count:
        raise ValueError(f"{place}: {len(value)} values stand where {count} numbers should.")
    for one in value:
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not abs(one) <= FARTHEST:
            raise ValueError(f"{place}: {_said(one)} stands where a finite number should.")
    return [float(one) for one in value]


def box_of_size(value: Any, place: str) -> Box:
    """Return the box of x, y, width and height.

    Raises:
        ValueError: Another value, or a negative size.
    """
    x, y, width, height = numbers(value, 4, place)
    return _checked((x, y, x + width, y + height), place)


def box_of_corners(value: Any, place: str) -> Box:
    """Return the box of left, top, right and bottom.

    Raises:
        ValueError: Another value, or a negative size.
    """
    x0, y0, x1, y1 = numbers(value, 4, place)
    return _checked((x0, y0, x1, y1), place)


def area(box: Box) -> float:
    """Return the area of a box; 0 where its sides have crossed."""
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def clipped(box: Box, size: tuple[int, int] | None) -> Box | None:
    """Return a box inside an image of a width and height, or None where nothing is left of it.

    As in the authors' code of BPJDet (arXiv:2304.10765), a side beyond the right or lower border of
    the image comes to stand a pixel before it, and one beyond the left or upper border on it. The
    authors keep boxes of which nothing is left.

    Example:
        >>> clipped((-5.0, 2.0, 70.0, 9.0), (64, 32)), clipped((-5.0, 2.0, -1.0, 9.0), (64, 32))
        ((0, 2.0, 63, 9.0), None)
    """
    x0, y0, x1, y1 = box
    if size is not None:
        width, height = size
        x0, y0 = max(x0, 0), max(y0, 0)
        x1, y1 = width - 1 if x1 > width else x1, height - 1 if y1 > height else y1
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def share_seen(seen: Box, body: Box, size: tuple[int, int] | None) -> float:
    """Return which share of a body is seen: that part of ``seen`` which the image shows.

    Example:
        >>> share_seen((-4, 0, 4, 8), (-4, 0, 4, 16), (32, 32))
        0.25
    """
    x0, y0, x1, y1 = seen
    if size is not None:
        width, height = size
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    return min(area((x0, y0, x1, y1)) / max(area(body), 1e-9), 1.0)


def _checked(box: Box, place: str) -> Box:
    if box[2] < box[0] or box[3] < box[1]:
        size = f"{box[2] - box[0]:g} x {box[3] - box[1]:g}"
        raise ValueError(f"{place}: a box of a negative size, {size}.")
    return box


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (Mapping, list)):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and not -(10**60) < value < 10**60:
        return "a number of many digits"
    return f"{value!r:.60}"

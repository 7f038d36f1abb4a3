"""Label files of DOTA: one oriented object per line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from datamodules.dota.label_errors import LabelErrors
from framework.detection.objects import Objects
from framework.detection.rotated import is_convex
from framework.detection.rotated.boxes import signed_area
from framework.utilities.files import write_text
from framework.utilities.limits import read_text

_HEADER = re.compile(r"[A-Za-z ]+:")
"""``imagesource:GoogleEarth``, ``gsd:0.146`` and the like."""
_BYTES_PER_CHARACTER = 256
"""Bytes that a character of a label file becomes at most, as lines of two with their places."""


def read_labels(
    path: str | Path,
    class_names: Sequence[str],
    faults: LabelErrors | None = None,
    size: tuple[int, int] | None = None,
) -> Objects:
    r"""Return the objects of a label file.

    A line is ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``, in pixels, separated by white space;
    difficult is 0, 1 or 2, and 0 where it is missing. Header lines such as ``gsd:0.146`` and empty
    ones say nothing of objects. Corners that go round the other way are put clockwise on screen,
    the first one staying the first.

    DOTA's development kit skips every line with fewer than nine fields and checks nothing.

    Args:
        path: Label file.
        class_names: Names of the classes, by label.
        faults: Collector of wrong lines; without it the first one raises.
        size: Size (width, height) of the image, outside which no object may lie wholly; without it
            an object may lie anywhere.

    Raises:
        ValueError: by file and line, a line of another form, a class that is not in the list, a
            coordinate that is not finite, a quadrilateral that is not convex, or one outside the
            image.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "P0001.txt"
        >>> _ = path.write_text("gsd:0.146\n0 0 8 0 8 4 0 4 ship 1\n1 1 3 1 3 3 1 3 plane 0\n")
        >>> objects = read_labels(path, ["plane", "ship"])
        >>> objects.label, objects.difficult
        (tensor([1, 0]), tensor([1, 0], dtype=torch.uint8))
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    rows = [(place, line.split()) for place, line in read_lines(path, faults)]
    rows = [(place, fields) for place, fields in rows if not _HEADER.match(" ".join(fields))]
    return objects_of_lines(rows, lambda fields: _parse(fields, numbers), faults, size)


def read_lines(path: str | Path, faults: LabelErrors | None = None) -> list[tuple[str, str]]:
    """Return the lines of a text file that are not empty, each after its place for messages."""
    try:
        lines = read_text(path, _BYTES_PER_CHARACTER).splitlines()
    except ValueError as error:
        _report("unreadable label file", str(error), faults)
        return []
    return [(f"{path}, line {k}", line) for k, line in enumerate(lines, start=1) if line.strip()]


def objects_of_lines(
    lines: Sequence[tuple[str, list[str]]],
    parse: Callable[[list[str]], tuple[list[float], int, int]],
    faults: LabelErrors | None = None,
    size: tuple[int, int] | None = None,
) -> Objects:
    """Return the objects of lines, clockwise on screen, without those that are wrong.

    Args:
        lines: Place of each line for messages, and its fields.
        parse: Function that returns eight coordinates, label and difficulty of a line's fields, or
            raises ``LineError``.
        faults: Collector of wrong lines; without it the first one raises.
        size: Size (width, height) of the image, outside which no object may lie wholly.
    """
    rows, places = [], []
    for place, fields in lines:
        try:
            rows.append(parse(fields))
            places.append(place)
        except LineError as error:
            _report(error.kind, f"{place}: {error}", faults)
    corners, label, difficult = zip(*rows, strict=True) if rows else ((), (), ())
    quads = torch.tensor(corners, dtype=torch.float32).view(-1, 4, 2)
    convex = is_convex(quads)
    for row in (~convex).nonzero().flatten().tolist():
        message = f"{places[row]}: the corners {corners[row]} enclose no convex area."
        _report("no convex area", message, faults)
    shown = convex.clone()
    if size is not None:
        extent = torch.tensor(size)
        shown &= ((quads.amax(1) > 0) & (quads.amin(1) < extent)).all(1)
        for row in (convex & ~shown).nonzero().flatten().tolist():
            message = (
                f"{places[row]}: {corners[row]} lies outside the image, {size[0]} x {size[1]}."
            )
            _report("outside the image", message, faults)
    clockwise = signed_area(quads)[:, None, None] > 0
    return Objects(
        torch.where(clockwise, quads, quads[:, [0, 3, 2, 1]]),
        torch.tensor(label, dtype=torch.int64),
        torch.tensor(difficult, dtype=torch.uint8),
    )[shown]


class LineError(ValueError):
    """A line of a label file that is no object; ``kind`` is what is counted."""

    def __init__(self, message: str, kind: str = "unreadable line") -> None:
        super().__init__(message)
        self.kind = kind


def coordinates(fields: Sequence[str]) -> list[float]:
    """Return the coordinates of four corners.

    Raises:
        LineError: a field that is no number, or not finite.
    """
    try:
        found = [float(field) for field in fields]
    except ValueError:
        raise LineError(f"'{' '.join(fields)[:99]}' are not eight coordinates.") from None
    if not all(map(math.isfinite, found)):
        raise LineError("a coordinate is not finite.")
    return found


def _parse(fields: list[str], numbers: dict[str, int]) -> tuple[list[float], int, int]:
    if len(fields) not in (9, 10):
        raise LineError(
            f"{len(fields)} fields instead of 'x1 y1 x2 y2 x3 y3 x4 y4 class difficult'."
        )
    corners = coordinates(fields[:8])
    if fields[8] not in numbers:
        message = (
            f"{fields[8][:60]} is none of the classes {', '.join(numbers)}; `classes` names others."
        )
        raise LineError(message, "unknown class")
    if fields[9:] not in ([], ["0"], ["1"], ["2"]):
        raise LineError(f"difficult must be 0, 1 or 2, got {fields[9][:60]}.")
    return corners, numbers[fields[8]], int(fields[9]) if fields[9:] else 0


def _report(kind: str, message: str, faults: LabelErrors | None) -> None:
    if faults is None:
        raise ValueError(message)
    faults.add(kind, message)


def write_labels(path: str | Path, objects: Objects, class_names: Sequence[str]) -> None:
    r"""Write a label file from which ``read_labels`` reads the same objects.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "P0001.txt"
        >>> quad = torch.tensor([[[0.0, 0], [8, 0], [8, 4.5], [0, 4.5]]])
        >>> write_labels(path, Objects(quad, torch.tensor([1]), torch.ones(1).byte()), ["a", "b"])
        >>> path.read_text()
        '0.0 0.0 8.0 0.0 8.0 4.5 0.0 4.5 b 1\n'
    """
    corners = objects.quads.flatten(1).numpy().astype(str)
    rows = zip(corners, objects.label.tolist(), objects.difficult.tolist(), strict=True)
    text = "".join(f"{' '.join(row)} {class_names[c]} {difficult}\n" for row, c, difficult in rows)
    write_text(Path(path), text)

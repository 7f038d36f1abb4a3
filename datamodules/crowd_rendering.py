"""Pictures of overlapping persons with heads and hands, drawn from a generator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from datamodules.drawing import (
    SUPERSAMPLING,
    capsule,
    cluttered_ground,
    ellipse,
    enlarged,
    fill_polygon,
)
from framework.detection.body_parts.people import People

CLASS_NAMES = ("body", "head", "hand")
SLOT_CLASSES = (1, 2, 2)
LEAST_OF_PART = 0.3
"""Share of a part that is seen at least, or it counts as absent."""
LEAST_OF_BODY = 0.2
"""Share of a body that is seen at least, or the person is left out."""
BODY_WIDTH = 0.3
"""Width of the shoulders in heights of a person."""
NEIGHBORS = 0.8
"""Probability that a person stands close to one that is there already."""
NO_PART = 0


class Polygon(NamedTuple):
    """A filled polygon of a person.

    Args:
        corners: (n, 2) corners in pixels of the picture.
        color: (3,) color in 0 to 255.
        part: Slot of the part it belongs to plus 1, else 0.
    """

    corners: np.ndarray
    color: np.ndarray
    part: int


class Person(NamedTuple):
    """A person to be drawn.

    Args:
        x: Middle of the shoulders.
        feet: Ground below the feet, which says who stands before whom.
        height: Height in pixels.
        polygons: What is drawn, in this order.
    """

    x: float
    feet: float
    height: float
    polygons: list[Polygon]

    def box(self, part: int | None = None) -> np.ndarray:
        """Return the box of a part, or of the whole body, as left, top, right and bottom."""
        corners = np.concatenate([p.corners for p in self.polygons if part in (None, p.part)])
        return np.concatenate([corners.min(0), corners.max(0)])


def render_crowd(
    seed: int,
    size: int,
    people: tuple[int, int] = (2, 8),
    height: tuple[float, float] = (50.0, 180.0),
) -> tuple[np.ndarray, People]:
    """Draw persons who stand close to and before one another.

    A person has legs, a torso, a head with hair, and two arms of two segments that may point
    anywhere, with a hand at the end of each. Clothes have any color, and each head and each hand
    its own of the colors of skin, so that no color tells which hand belongs to which head. Four of
    five persons stand beside another one, 0.3 to 1 shoulder widths away; whoever stands lower in
    the picture is in front. Boxes and shares that are seen follow from the geometry, before a
    picture is made: boxes are those of whole persons and parts, which may leave the picture.

    Args:
        seed: Seed that alone determines the picture.
        size: Width and height in pixels.
        people: Least and largest number of persons, before those are left out of whom less than a
            fifth is seen.
        height: Range of the persons' height in pixels, whose logarithm is uniform.

    Returns:
        The picture (size, size, 3) uint8 and its people with slots for the head and two hands. A
        part of which less than 30 % is seen counts as absent, and of two hands the first is the
        one further left.

    Example:
        >>> picture, found = render_crowd(0, 128, height=(25, 90))
        >>> picture.shape, found.parts.shape[1:], 1 <= len(found) <= 8
        ((128, 128, 3), torch.Size([3, 4]), True)
    """
    from PIL import ImageDraw

    rng = np.random.Generator(np.random.PCG64(seed))
    ground = cluttered_ground(rng, size, size)
    persons = _place(rng, size, int(rng.integers(*people, endpoint=True)), height)
    persons, body_share, part_share = _without_hidden(persons, size)
    picture = enlarged(ground)
    pen = ImageDraw.Draw(picture)
    for person in persons:
        for polygon in person.polygons:
            fill_polygon(pen, polygon.corners, polygon.color)
    return np.array(picture.reduce(SUPERSAMPLING)), _labels(persons, body_share, part_share)


def seen_shares(persons: list[Person], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what share of each person (n,) and of each part (n, K) a picture shows.

    Persons are drawn as numbers on a picture of whole numbers, each number is counted, and so is
    each person alone.

    Args:
        persons: Persons, those behind first.
        size: Width and height of the picture in pixels.
    """
    from PIL import Image, ImageDraw

    numbers = len(SLOT_CLASSES) + 1
    buffer = Image.new("I", (SUPERSAMPLING * size,) * 2)
    pen = ImageDraw.Draw(buffer)
    for place, person in enumerate(persons):
        for polygon in person.polygons:
            fill_polygon(pen, polygon.corners, 1 + place * numbers + polygon.part)
    seen = np.bincount(np.asarray(buffer).ravel(), minlength=1 + len(persons) * numbers)
    seen = seen[1:].reshape(len(persons), numbers)
    whole = np.array(
        [[_area(person, part) for part in (None, *range(1, numbers))] for person in persons]
    ).reshape(len(persons), numbers)
    # a pixel on a border may fall to either side, elsewhere and alone
    return np.minimum(seen.sum(1) / whole[:, 0], 1), np.minimum(seen[:, 1:] / whole[:, 1:], 1)


def _area(person: Person, part: int | None) -> int:
    """Return the pixels of a part, or of the whole body, where nothing covers it."""
    from PIL import Image, ImageDraw

    box = person.box(part)
    corner = np.floor(box[:2])
    width, height = (SUPERSAMPLING * (np.ceil(box[2:] - corner) + 1)).astype(int).tolist()
    alone = Image.new("L", (width, height))
    pen = ImageDraw.Draw(alone)
    for polygon in person.polygons:
        if part in (None, polygon.part):
            fill_polygon(pen, polygon.corners - corner, 1)
    return alone.histogram()[1]


def _without_hidden(
    persons: list[Person], size: int
) -> tuple[list[Person], np.ndarray, np.ndarray]:
    """Return persons who are seen, and what share of them and of their parts is."""
    while True:
        body, part = seen_shares(persons, size)
        if not len(persons) or body.min() >= LEAST_OF_BODY:
            return persons, body, part
        # without the one who is seen least, another one may be seen
        least = int(body.argmin())
        persons = [*persons[:least], *persons[least + 1 :]]


def _labels(persons: list[Person], body_share: np.ndarray, part_share: np.ndarray) -> People:
    slots = len(SLOT_CLASSES)
    bodies = np.array([person.box() for person in persons], dtype=np.float32)
    parts = np.array(
        [[person.box(part + 1) for part in range(slots)] for person in persons], dtype=np.float32
    )
    visible = torch.from_numpy(part_share >= LEAST_OF_PART)
    return People(
        bodies=torch.from_numpy(bodies.reshape(-1, 4)),
        parts=torch.from_numpy(parts.reshape(-1, slots, 4)) * visible[..., None],
        visible=visible,
        part_ignored=torch.zeros_like(visible),
        visible_ratio=torch.from_numpy(body_share).float(),
        ignored=torch.zeros(len(persons), dtype=torch.bool),
    ).sorted_slots(SLOT_CLASSES)


def _place(
    rng: np.random.Generator, size: int, number: int, heights: tuple[float, float]
) -> list[Person]:
    """Return persons, those behind first."""
    persons: list[Person] = []
    for place in range(number):
        height = float(np.exp(rng.uniform(*np.log(heights))))
        lowest = size + 0.25 * height
        if place and rng.random() < NEIGHBORS:
            other = persons[int(rng.integers(place))]
            width = BODY_WIDTH * (height + other.height) / 2
            gap = rng.uniform(0.3, 1.0) * width * rng.choice((-1, 1))
            x = other.x + gap if 0 < other.x + gap < size else other.x - gap
            feet = other.feet + rng.uniform(-0.25, 0.25) * height
        else:
            x, feet = rng.uniform(0.1 * size, 0.9 * size), rng.uniform(height, lowest)
        feet = float(np.clip(feet, 0.95 * height, lowest))
        persons.append(Person(x, feet, height, _polygons(rng, x, feet, height)))
    return sorted(persons, key=lambda person: person.feet)


def _polygons(rng: np.random.Generator, x: float, feet: float, height: float) -> list[Polygon]:
    shirt, trousers = rng.uniform(0, 255, (2, 3))
    hair = rng.uniform(0, 110, 3)
    top = np.array([x, feet - height])
    head = np.array([rng.uniform(-0.03, 0.03), 0.09])
    legs = [
        Polygon(
            capsule([side * 0.055, 0.55], [side * rng.uniform(0.04, 0.13), 0.96], 0.04),
            trousers,
            NO_PART,
        )
        for side in (-1, 1)
    ]
    trunk = [
        Polygon(capsule([0, 0.2], [head[0], 0.13], 0.03), _skin(rng), NO_PART),
        Polygon(ellipse([0, 0.38], 0.115, 0.21), shirt, NO_PART),
        Polygon(ellipse(head, 0.075, 0.09), _skin(rng), 1),
        Polygon(ellipse(head, 0.075, 0.09, upper_half=True), hair, 1),
    ]
    behind: list[Polygon] = []
    front: list[Polygon] = []
    for part, side in ((2, -1), (3, 1)):
        arm = _arm(rng, side, part, 0.85 * shirt)
        (behind if rng.random() < 0.25 else front).extend(arm)
    return [
        Polygon(top + height * polygon.corners, polygon.color, polygon.part)
        for polygon in (*behind, *legs, *trunk, *front)
    ]


def _arm(rng: np.random.Generator, side: int, part: int, sleeve: np.ndarray) -> list[Polygon]:
    """Return an arm in heights of its person, from the top of the head."""
    shoulder = np.array([side * 0.11, 0.23])
    # 0 hangs down, a quarter turn points sideways, away from the body
    upper = np.deg2rad(rng.uniform(-15, 150))
    lower = upper + np.deg2rad(rng.uniform(-110, 110))
    elbow = shoulder + 0.17 * np.array([side * np.sin(upper), np.cos(upper)])
    hand = elbow + 0.17 * np.array([side * np.sin(lower), np.cos(lower)])
    return [
        Polygon(capsule(shoulder, elbow, 0.033), sleeve, NO_PART),
        Polygon(capsule(elbow, hand, 0.028), sleeve, NO_PART),
        Polygon(ellipse(hand, 0.048, 0.048), _skin(rng), part),
    ]


def _skin(rng: np.random.Generator) -> np.ndarray:
    light, dark = np.array([255.0, 220, 185]), np.array([120.0, 75, 50])
    return np.clip(light + rng.random() * (dark - light) + rng.uniform(-10, 10, 3), 0, 255)

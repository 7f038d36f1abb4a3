"""Cartoon faces, drawn from the seed of a person and the seed of a picture."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from datamodules.drawing import SUPERSAMPLING, cluttered_ground, ellipse, enlarged, fill_polygon

WHITE = np.array([235.0, 235.0, 230.0])
DARK, LIGHT = np.array([120.0, 80.0, 60.0]), np.array([250.0, 215.0, 190.0])
"""Darkest and lightest skin."""


class Person(NamedTuple):
    """What does not change from one picture of a person to the next.

    Lengths are in units of half the height of a head without hair, from the middle of the face.
    """

    skin: np.ndarray
    hair: np.ndarray
    lips: np.ndarray
    iris: np.ndarray
    head_width: float
    jaw: float
    hair_volume: float
    hair_line: float
    hair_length: float
    eye_distance: float
    eye_height: float
    eye_size: float
    brow_gap: float
    brow_thickness: float
    brow_slope: float
    nose_length: float
    nose_width: float
    mouth_height: float
    mouth_width: float
    lip_thickness: float


class Look(NamedTuple):
    """What differs from one picture of a person to the next, apart from ground and noise."""

    angle: float
    scale: float
    shift: np.ndarray
    turn: float
    smile: float
    mouth_open: float
    eyes_open: float
    brows_up: float
    gaze: float
    light: np.ndarray
    slope: np.ndarray


def draw_person(seed: int) -> Person:
    """Return a person, who depends on the seed alone."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return Person(
        skin=DARK + rng.random() * (LIGHT - DARK) + rng.uniform(-12, 12, 3),
        hair=rng.uniform(15, 60) + rng.random() * np.array([150.0, 110.0, 50.0]),
        lips=np.array([rng.uniform(130, 210), rng.uniform(50, 110), rng.uniform(60, 120)]),
        iris=rng.uniform(20, 130, 3),
        head_width=rng.uniform(0.66, 0.88),
        jaw=rng.uniform(0.1, 0.5),
        hair_volume=rng.uniform(1.05, 1.3),
        hair_line=rng.uniform(0.4, 0.75),
        hair_length=rng.uniform(-0.2, 1.0),
        eye_distance=rng.uniform(0.28, 0.42),
        eye_height=rng.uniform(-0.2, 0.0),
        eye_size=rng.uniform(0.11, 0.18),
        brow_gap=rng.uniform(0.15, 0.28),
        brow_thickness=rng.uniform(0.03, 0.08),
        brow_slope=rng.uniform(-0.3, 0.3),
        nose_length=rng.uniform(0.22, 0.42),
        nose_width=rng.uniform(0.07, 0.18),
        mouth_height=rng.uniform(0.48, 0.62),
        mouth_width=rng.uniform(0.2, 0.38),
        lip_thickness=rng.uniform(0.04, 0.1),
    )


def render_face(person_seed: int, picture_seed: int, size: int) -> np.ndarray:
    """Draw one picture of a person.

    The shapes and tones of head, hair, eyes, brows, nose and mouth are the person's. Rotation,
    scale, shift and a turn of the head, smile, mouth, eyes, brows and gaze, strength, color and
    direction of the light, the ground and noise are the picture's, and change pixels by more than
    most persons differ.

    Args:
        person_seed: Seed that alone determines the person.
        picture_seed: Seed that determines all else.
        size: Width and height in pixels.

    Returns:
        The picture, (size, size, 3) uint8.

    Example:
        >>> render_face(person_seed=0, picture_seed=1, size=32).shape
        (32, 32, 3)
    """
    from PIL import ImageDraw

    rng = np.random.Generator(np.random.PCG64(picture_seed))
    look = _draw_look(rng)
    picture = enlarged(cluttered_ground(rng, size, size))
    pen = ImageDraw.Draw(picture)
    for corners, color in _polygons(draw_person(person_seed), look):
        fill_polygon(pen, _placed(corners, look, size), np.clip(color, 0, 255))
    pixels = np.asarray(picture.reduce(SUPERSAMPLING), dtype=np.float64)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    shade = 1 + look.slope[0] * x + look.slope[1] * y
    pixels = pixels * shade[..., None] * look.light + 6 * rng.standard_normal(pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _draw_look(rng: np.random.Generator) -> Look:
    return Look(
        angle=np.deg2rad(rng.uniform(-15, 15)),
        scale=rng.uniform(0.62, 0.8),
        shift=rng.uniform(-0.14, 0.14, 2),
        turn=rng.uniform(-0.12, 0.12),
        smile=rng.uniform(-0.4, 0.8),
        mouth_open=rng.uniform(0, 0.12),
        eyes_open=rng.uniform(0.45, 1),
        brows_up=rng.uniform(-0.04, 0.08),
        gaze=rng.uniform(-0.4, 0.4),
        light=rng.uniform(0.55, 1.15) * rng.uniform(0.88, 1.12, 3),
        slope=rng.uniform(-0.3, 0.3, 2),
    )


def _placed(corners: np.ndarray, look: Look, size: int) -> np.ndarray:
    """Return corners in units of a head as those in pixels of the picture."""
    cos, sin = np.cos(look.angle), np.sin(look.angle)
    turned = corners @ np.array([[cos, sin], [-sin, cos]])
    middle = np.array([0.0, 0.08])  # there is more above a face, the hair, than below
    placed: np.ndarray = (1 + look.scale * turned + middle + look.shift) * size / 2
    return placed


def _polygons(person: Person, look: Look) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return filled polygons in units of a head with their colors, in the order of drawing."""
    head = _head(person.head_width, person.jaw)
    # a strand ends where the hair does
    long = person.hair_volume * _head(person.head_width, 0.0)
    long[:, 1] = np.minimum(long[:, 1], person.hair_length)
    forehead = 1.02 * head[head[:, 1] <= -person.hair_line]
    shadow = 0.72 * person.skin
    polygons = [(long, person.hair), (head, person.skin), (forehead, person.hair)]
    aside = np.array([look.turn, 0.0])
    for side in (-1, 1):
        eye = np.add(aside, [side * person.eye_distance, person.eye_height])
        height = 0.7 * person.eye_size * look.eyes_open
        iris = np.add(eye, [look.gaze * person.eye_size, 0])
        polygons += [
            (ellipse(eye, person.eye_size, height), WHITE),
            (ellipse(iris, 0.45 * person.eye_size, 0.9 * height), person.iris),
            (
                _brow(person, side, np.subtract(eye, [0, person.brow_gap + look.brows_up])),
                person.hair,
            ),
        ]
    tip = np.add(1.5 * aside, [0, person.eye_height + person.nose_length])
    bridge = np.add(aside, [0, person.eye_height + 0.08])
    wing = np.array([person.nose_width, 0])
    polygons += [(np.stack([bridge, tip + wing, tip - wing]), shadow), *_mouth(person, look)]
    return polygons


def _head(width: float, jaw: float) -> np.ndarray:
    """Return the outline of a head, which a jaw narrows towards the chin."""
    outline = ellipse([0, 0], width, 1.0)
    outline[:, 0] *= 1 - jaw * np.clip(outline[:, 1], 0, 1) ** 2
    return outline


def _brow(person: Person, side: int, middle: np.ndarray) -> np.ndarray:
    along = np.array([-1.0, 1.0]) * 1.2 * person.eye_size
    rise = side * person.brow_slope * along
    above = middle + np.stack([along, rise - person.brow_thickness], 1)
    below = middle + np.stack([along, rise + person.brow_thickness], 1)
    return np.concatenate([above, below[::-1]])


def _mouth(person: Person, look: Look) -> list[tuple[np.ndarray, np.ndarray]]:
    along = np.linspace(-1, 1, 9)
    bow = 1 - along**2
    x = look.turn + person.mouth_width * along
    # corners go up where a smile bends the lips
    middle = person.mouth_height + 0.35 * person.mouth_width * look.smile * (bow - 0.5)

    def between(half: np.ndarray) -> np.ndarray:
        upper, lower = np.stack([x, middle - half], 1), np.stack([x, middle + half], 1)
        return np.concatenate([upper, lower[::-1]])

    inside = between(look.mouth_open * bow)
    lips = between((look.mouth_open + person.lip_thickness) * bow + 0.01)
    return [(lips, person.lips), (inside, np.array([60.0, 25.0, 25.0]))]

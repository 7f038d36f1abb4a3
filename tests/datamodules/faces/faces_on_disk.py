"""Small faces on files, each of one color that says which it is."""

from __future__ import annotations

import io

from PIL import Image


def color(person, number):
    return (20 * person, 10 * number, 100)


def png(person, number, size=(12, 12)):
    target = io.BytesIO()
    Image.new("RGB", size, color(person, number)).save(target, format="PNG")
    return target.getvalue()


def write_people(root, persons=6, images=4, ending="png"):
    for person in range(persons):
        folder = root / f"p{person}"
        folder.mkdir(parents=True)
        for number in range(images):
            Image.new("RGB", (12, 14), color(person, number)).save(folder / f"{number}.{ending}")


def colors_of(images):
    """Return persons and numbers of normalized images."""
    values = ((images.mean((2, 3)) * 0.5 + 0.5) * 255).round().int()
    assert (values[:, 2] == 100).all()
    return (values[:, 0] // 20).tolist(), (values[:, 1] // 10).tolist()

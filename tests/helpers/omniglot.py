"""Omniglot's archives in small."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ALPHABETS = ("Arcadian", "Futurama", "Greek")


def drawing(character: int, person: int, size: int = 20) -> bytes:
    """Return a PNG of 1 bit: a black square on white, its place that of the character."""
    pixels = np.ones((size, size), dtype=bool)
    row, column = 4 * (character // 4), 4 * (character % 4)
    pixels[row + person % 2 : row + 4, column + person // 2 % 2 : column + 4] = False
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format="PNG")
    return target.getvalue()


def write_omniglot(
    folder: Path,
    name: str = "images_background_small1",
    alphabets: Sequence[str] = ALPHABETS,
    characters: int = 4,
    persons: int = 5,
) -> Path:
    """Write an archive of alphabets, and return its path."""
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for a, alphabet in enumerate(alphabets):
            for c in range(characters):
                for person in range(persons):
                    inside = f"{name}/{alphabet}/character{c + 1:02}/{person + 1:04}_01.png"
                    archive.writestr(inside, drawing(4 * a + c, person))
    return path


def write_runs(folder: Path, runs: int = 2, ways: int = 3) -> Path:
    """Write an archive of one-shot runs, and return its path; query q is of class ways - 1 - q."""
    path = folder / "all_runs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for run in range(1, runs + 1):
            lines = []
            for k in range(ways):
                support = f"run{run:02}/training/class{k + 1:02}.png"
                query = f"run{run:02}/test/item{ways - k:02}.png"
                archive.writestr(support, drawing(run + k, 0))
                archive.writestr(query, drawing(run + k, 1))
                lines.append(f"{query} {support}")
            archive.writestr(f"run{run:02}/class_labels.txt", "\n".join(sorted(lines)))
    return path

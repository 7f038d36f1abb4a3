"""Pictures of a run folder inside a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from framework.data.image_files import image_info, image_size
from framework.utilities.limits import open_file

LARGEST = 4 << 20
"""Bytes of a picture."""
LARGEST_OF_ALL = 16 << 20
"""Bytes of all pictures of a page."""
MOST_PIXELS = 32 << 20
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CURVES = "learning_curves"
STAGES = {"val": "validation at the end of training", "validate": "validation", "test": "test"}


class Picture(NamedTuple):
    """A picture inside a page.

    Args:
        caption: What it shows.
        source: Its content as an address.
        width: Width in pixels.
        height: Height in pixels.
        name: Name of its file without ending.
    """

    caption: str
    source: str
    width: int
    height: int
    name: str


def read_pictures(run: Path) -> tuple[list[Picture], list[str]]:
    """Return the figures of a run, and a line for each that is left out.

    Args:
        run: Run folder, out of which no link leads.
    """
    found: list[Picture] = []
    left_out: list[str] = []
    taken = 0
    for path in sorted((run / "figures").glob("*.png"), key=_order):
        try:
            content = _content(path, LARGEST_OF_ALL - taken)
            width, height = image_size(path)
            if width * height > MOST_PIXELS:
                raise ValueError(f"it has {width:,} x {height:,} pixels")
        except (OSError, ValueError) as error:
            left_out.append(f"figures/{path.name}: {str(error).rstrip('.')}")
            continue
        taken += len(content)
        source = f"data:image/png;base64,{b64encode(content).decode()}"
        found.append(Picture(_caption(path), source, width, height, path.stem))
    return found, left_out


def _content(path: Path, room: int) -> bytes:
    with open_file(path) as file:
        content = file.read(LARGEST + 1)
    if not content.startswith(SIGNATURE):
        raise ValueError("it is no PNG")
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
    if len(content) > room:
        raise ValueError(f"all pictures would be larger than {LARGEST_OF_ALL >> 20} MiB")
    return content


def _caption(path: Path) -> str:
    """Return the text that was saved with a picture, or else what its name says, and the stage."""
    said = image_info(path).get("Description")
    stage, _, name = path.stem.partition("_")
    if stage not in STAGES or not name:
        stage, name = "", path.stem
    words = name.replace("_", " ")
    title, where = f"{words[:1].upper()}{words[1:]}", STAGES.get(stage, "")
    if not isinstance(said, str) or not said:
        return f"{title}, {where}." if where else f"{title}."
    if said.startswith(title):
        title, where = where.capitalize(), ""
    begin = ", ".join(part for part in (title, where) if part)
    return f"{begin}. {said.rstrip('.')}." if begin else f"{said.rstrip('.')}."


def _order(path: Path) -> tuple[int, str]:
    """Order by stage, the test first."""
    starts: Sequence[str] = ("test_", "validate_", "val_")
    place = next((k for k, start in enumerate(starts) if path.name.startswith(start)), len(starts))
    return place, path.name

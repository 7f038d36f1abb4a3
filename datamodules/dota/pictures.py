"""The picture files of a folder."""

from __future__ import annotations

import os
from pathlib import Path


def find_pictures(folder: Path) -> list[Path]:
    """Return all picture files below a folder, in the order of their paths.

    Raises:
        FileNotFoundError: no such folder, or no picture below it.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    paths = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(IMG_EXTENSIONS)
    )
    if not paths:
        raise FileNotFoundError(f"{folder} holds no image, nor does a folder in it.")
    return paths

"""Where data come from: whether those at hand are the ones that a model was trained on."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from framework.data.folders import walk_files


def origin_of(path: Path) -> list[str]:
    """Return the place of a file or folder, and a digest of what lies there.

    That of a folder is of the names and sizes of its files, hidden ones left out. Where there is
    nothing, there is no digest.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a", "b"):
        ...     _ = (folder / name).write_text("1,2")
        >>> one, other = origin_of(folder / "a"), origin_of(folder / "b")
        >>> one[0] == other[0], one[1] == other[1]
        (False, True)
    """
    place = str(path.resolve())
    if path.is_dir():
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted(walk_files(str(path), Counter())):
            name = os.fsencode(os.path.relpath(file, path))
            digest.update(b"%s\0%d\n" % (name, os.path.getsize(file)))
        return [place, digest.hexdigest()]
    if path.is_file():
        with path.open("rb") as content:
            return [place, hashlib.file_digest(content, "blake2b").hexdigest()[:32]]
    return [place]


def is_elsewhere(origin: Sequence[str], trained: Sequence[str]) -> bool:
    """Return whether data lie at another place than those of a training."""
    return origin[0] != trained[0]


def is_another(origin: Sequence[str], trained: Sequence[str]) -> bool:
    """Return whether data are neither those of a training nor a copy of them."""
    return set(origin).isdisjoint(trained)


def has_changed(origin: Sequence[str], trained: Sequence[str]) -> bool:
    """Return whether what lies at the place of a training is no longer what it was."""
    return origin[0] == trained[0] and list(origin) != list(trained)

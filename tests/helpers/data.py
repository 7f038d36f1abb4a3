"""Where the tests find real data that is too large for the repository."""

import os
from pathlib import Path

import pytest


def shared_data(*parts: str) -> Path:
    """Return a path of the shared data folder; skip the test where it is absent."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    path = Path(os.environ.get("TRIMTAB_DATA", beside)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs the real data {'/'.join(parts)}: set TRIMTAB_DATA to its folder")
    return path

"""The run that those of a quick test are compared with, and a small disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disks import mount
from tests.faults.invariant import Whole, whole_run
from tests.helpers.configs import arguments


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A classifier with sharded per-sample memory, of twelve steps, that nothing hurts."""
    folder = tmp_path_factory.mktemp("unhurt")
    return whole_run(arguments("classifier", "with/saf"), folder / "whole")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)

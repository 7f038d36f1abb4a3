"""Small disks, and how they become full."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest


def mount(place: Path, *options: str) -> None:
    """Mount something, or skip the test."""
    done = subprocess.run(["mount", *options, str(place)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.decode().strip()}")


def fills(disk: Path, free: int = 0) -> Callable[[], None]:
    """Return what leaves so many bytes of a disk free."""

    def fill() -> None:
        with (disk / "filler").open("wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    file.write(bytes(4096))
            file.truncate(file.tell() - free)

    return fill

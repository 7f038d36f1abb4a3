"""Fixtures of the tests on a real SLURM, which `make test-slurm` starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.slurm.jobs import Place


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Skip all tests where no SLURM answers."""
    if "SLURM_CONF" not in os.environ:
        pytest.skip("SLURM_CONF names no slurm.conf: `make test-slurm` starts a SLURM")
    if shutil.which("sinfo") is None:
        pytest.skip("there is no sinfo: `make test-slurm` installs SLURM")
    done = subprocess.run(["sinfo"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"SLURM does not answer: {done.stderr.strip()}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A working directory for jobs."""
    return Place(tmp_path)

"""Variables that SLURM sets, and a program that stands in for its ``scontrol``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ONE_TASK = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
"""What the only task of ``srun`` finds."""


def pretend_job(monkeypatch: pytest.MonkeyPatch, **changed: str) -> None:
    """Set the variables of a job of one task."""
    for name, value in {**ONE_TASK, **changed}.items():
        monkeypatch.setenv(name, value)


def pretend_scontrol(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str = "") -> Path:
    """Put a ``scontrol`` on the path, and return the file with its arguments, one call a line.

    Args:
        monkeypatch: pytest's fixture.
        folder: New folder for both.
        script: Further lines of shell, such as ``exit 1``.
    """
    folder.mkdir()
    calls = folder / "calls"
    calls.touch()
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return calls

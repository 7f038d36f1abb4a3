"""What the environment says of the job that a process belongs to."""

from __future__ import annotations

import os


def restarts() -> int:
    """Return how often SLURM or torchrun has started the job of this process again."""
    counts = [os.environ.get("TORCHELASTIC_RESTART_COUNT", "")]
    if "SLURM_JOB_ID" in os.environ:
        counts.append(os.environ.get("SLURM_RESTART_COUNT", ""))
    return sum(int(count) for count in counts if count.isdigit())

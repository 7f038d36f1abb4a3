"""What a SLURM job is asked, and what it is asked for; imports nothing large."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Variables of launchers, in the order in which Lightning looks at them."""
PATIENCE = 60.0
"""Seconds for the scheduler's answer."""


def is_first_process() -> bool:
    """Return whether this process is rank 0 by what its launcher says."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


@contextmanager
def said_once() -> Iterator[None]:
    """Let what is wrong for all processes of a job be said by the first of them only."""
    try:
        yield
    except (RuntimeError, ValueError):
        if is_first_process():
            raise
        raise SystemExit(1) from None


def job_id() -> str | None:
    """Return what SLURM calls this job, one task of an array alone; None outside of SLURM.

    Example:
        >>> job_id()
    """
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> str:
    """Put this job back into the queue, and return in words whether that was done."""
    job = str(job_id())
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job],
            capture_output=True,
            check=False,
            errors="replace",
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} was not queued again ({error})"
    if done.returncode == 0:
        return f"job {job} is queued again and goes on by itself"
    reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    return f"job {job} was not queued again (scontrol: {reason})"


def check_tasks() -> None:
    """Refuse a job of several tasks of which Lightning cannot tell how many each node has.

    Raises:
        RuntimeError: SLURM's variables do not say it.
    """
    tasks = os.environ.get("SLURM_NTASKS", "1")
    started = "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if tasks != "1" and "SLURM_NTASKS_PER_NODE" not in os.environ and not (started or interactive):
        raise RuntimeError(
            f"The job has {tasks} tasks (--ntasks), and Lightning is to be told how many on each "
            "node: say --ntasks-per-node, and the number of nodes by --nodes."
        )


def check_ranks(world_size: int) -> None:
    """Refuse ranks that are not the tasks that SLURM started.

    Args:
        world_size: Number of ranks of the Trainer.

    Raises:
        ValueError: Ranks would wait for others, or each train a run of its own.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", world_size))
    if "SLURM_STEP_ID" not in os.environ:
        if world_size > 1:
            raise ValueError(
                f"The Trainer has {world_size} ranks, but in this SLURM job the command was "
                "started once and would wait for the others: put srun before it."
            )
    elif tasks != world_size:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        raise ValueError(
            f"SLURM started {tasks} task(s) on {nodes} node(s), but the Trainer has {world_size} "
            f"rank(s) (devices x num_nodes): set --trainer.devices {max(1, tasks // nodes)} "
            f"--trainer.num_nodes {nodes}, and --trainer.strategy ddp where there are several."
        )

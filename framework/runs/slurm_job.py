"""What a SLURM job is asked, and what it is asked for."""

from __future__ import annotations

import os
import subprocess

from lightning.pytorch import Trainer

from framework.utilities.lightning_internals import slurm_environment

PATIENCE = 60.0
"""Seconds for the scheduler's answer."""


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
    """Refuse a job of several tasks whose command was started once, before it waits for the others.

    Raises:
        RuntimeError: SLURM's variables say so.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if tasks == 1 or os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return
    if "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ:
        # torchrun or Lightning started this process
        return
    if "SLURM_STEP_ID" not in os.environ:
        raise RuntimeError(
            f"The job has {tasks} tasks (SLURM_NTASKS), but this command was started once and "
            "would wait for the others: put srun before it."
        )
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise RuntimeError(
            f"srun started {tasks} tasks (--ntasks), and Lightning is to be told how many on each "
            "node: say --ntasks-per-node, and the number of nodes by --nodes."
        )


def check_ranks(trainer: Trainer) -> None:
    """Refuse tasks that are not the Trainer's ranks: each of them would train a run of its own.

    Raises:
        ValueError: They are more, or fewer.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", trainer.world_size))
    if slurm_environment(trainer) is not None and tasks != trainer.world_size:
        nodes = int(os.environ.get("SLURM_NNODES", "1"))
        raise ValueError(
            f"SLURM started {tasks} tasks on {nodes} nodes (--ntasks-per-node, --nodes), but the "
            f"Trainer has {trainer.world_size} ranks (devices x num_nodes): set "
            f"--trainer.devices {max(1, tasks // nodes)} --trainer.num_nodes {nodes}, and "
            "--trainer.strategy ddp where there are several."
        )

"""What SLURM says of the job that a run is in."""

from __future__ import annotations

import os
from collections.abc import Mapping

FACTS = {
    "job_id": "SLURM_JOB_ID",
    "job_name": "SLURM_JOB_NAME",
    "array_job_id": "SLURM_ARRAY_JOB_ID",
    "array_task_id": "SLURM_ARRAY_TASK_ID",
    "step_id": "SLURM_STEP_ID",
    "restart_count": "SLURM_RESTART_COUNT",
    "partition": "SLURM_JOB_PARTITION",
    "num_nodes": "SLURM_JOB_NUM_NODES",
    "num_tasks": "SLURM_NTASKS",
    "nodes": "SLURM_JOB_NODELIST",
}
TEXTS = ("job_name", "partition", "nodes")


def slurm_facts(environment: Mapping[str, str] | None = None) -> dict[str, int | str]:
    """Return the job's numbers, or nothing outside of a SLURM job.

    Args:
        environment: Environment variables; default those of this process.

    Example:
        >>> slurm_facts({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_NTASKS": "2"})
        {'job_id': 14, 'array_job_id': 12, 'restart_count': 0, 'num_tasks': 2}
    """
    given = os.environ if environment is None else environment
    if "SLURM_JOB_ID" not in given:
        return {}
    # SLURM sets the count at the first restart
    texts = {"SLURM_RESTART_COUNT": "0", **given}
    found = {name: texts[key][:200] for name, key in FACTS.items() if key in texts}
    return {
        name: int(text) if name not in TEXTS and text.isdecimal() else text
        for name, text in found.items()
    }


def slurm_group(environment: Mapping[str, str] | None = None) -> str | None:
    """Return a name that the runs of an array, or of one job, share; None outside of SLURM.

    Example:
        >>> slurm_group({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12"})
        'slurm-12'
    """
    facts = slurm_facts(environment)
    number = facts.get("array_job_id", facts.get("job_id"))
    return None if number is None else f"slurm-{number}"

"""What the environment says of the job that a process belongs to."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING
from uuid import uuid4

from framework.runs.slurm_job import job_id

if TYPE_CHECKING:
    from torch.distributed import TCPStore

LAST_STEP = 0xFFFFFFF0
"""Numbers of steps from here on are SLURM's own, such as that of a batch script."""

WAIT = 60
"""Seconds to wait for rank 0, which may have died before it was counted."""


@dataclass(frozen=True)
class Job:
    """A job of SLURM or torchrun.

    Args:
        name: Name that it keeps when it is started again.
        step: Number of the call of ``srun`` in a job of SLURM; None outside of one.
        restarts: How often it was started again.
    """

    name: str
    step: int | None = None
    restarts: int = 0


def current_job() -> Job | None:
    """Return the job of this process, the same on all its ranks, or None outside of one."""
    store = agent_store()
    restarts = 0 if store is None else _starts(store.host, store.port, os.environ["RANK"]) - 1
    if "SLURM_JOB_ID" in os.environ:
        step = _number("SLURM_STEP_ID")
        return Job(
            f"slurm-{job_id()}",
            step if step is not None and step < LAST_STEP else None,
            restarts + (_number("SLURM_RESTART_COUNT") or 0),
        )
    if store is None:
        return None
    # of the names that the ranks bring along the first is kept
    name = store.compare_set("trimtab/job", "", uuid4().hex).decode()
    return Job(f"torchrun-{name}", restarts=restarts)


def restarts() -> int:
    """Return how often the job of this process was started again."""
    job = current_job()
    return 0 if job is None else job.restarts


def is_on_several_machines() -> bool:
    """Return whether SLURM, torchrun or a person started ranks on other machines, too."""
    ranks = _number("WORLD_SIZE") or 1
    return (
        (_number("SLURM_NNODES") or 1) > 1
        or ranks > (_number("LOCAL_WORLD_SIZE") or ranks)
        or (_number("NODE_RANK") or 0) > 0
    )


def agent_store() -> TCPStore | None:
    """Return torchrun's store, which outlives the processes of the ranks, or None without one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore

    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)


@cache
def _starts(host: str, port: int, rank: str) -> int:
    """Return which process of a rank this is; agents of several machines count for themselves."""
    store = agent_store()
    assert store is not None
    started = int(store.add(f"trimtab/starts/{rank}", 1))
    cleared = f"trimtab/cleared/{started}"
    if started > 1 and rank == "0":
        # by these the ranks would look for processes that are gone
        for key in filter(lambda key: key.startswith("default_pg/"), store.list_keys()):
            store.delete_key(key)
        store.set(cleared, "")
    elif started > 1:
        with suppress(RuntimeError):
            store.wait([cleared], timedelta(seconds=WAIT))
    return started


def _number(variable: str) -> int | None:
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else None

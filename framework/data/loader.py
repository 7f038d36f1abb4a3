"""A data loader whose position in the epoch is kept by its datamodule."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch.utils.data import DataLoader

from framework.data.datasets import Batch
from framework.utilities.signals import out_of_their_reach

_WORKERS: WeakKeyDictionary[BaseProcess, int] = WeakKeyDictionary()
"""Every worker, and the process that started it."""
MOST_WORKERS = 8
"""Workers of a loader at most where nobody says their number."""


def usual_workers(ranks: int) -> int:
    """Return how many workers a loader has on a rank that trains on a GPU: its cores, at most 8.

    Args:
        ranks: Ranks on this machine, which share its cores.
    """
    per_task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if per_task.isdigit():
        # under torchrun one task holds all ranks of a machine
        cores = int(per_task) // (ranks if dist.is_torchelastic_launched() else 1)
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0)) // ranks
    else:
        cores = (os.cpu_count() or 1) // ranks
    return max(1, min(cores, MOST_WORKERS))


class ElasticDataLoader:
    """An iterable over batches, whose place in the epoch is kept by the datamodule.

    It wraps a ``DataLoader`` instead of being one, so that Lightning does not put samplers of its
    own in the place of ours. Signals that ask a run to stop do not reach its worker processes, as
    the run still takes a batch of them.

    Args:
        loader: Loader that it iterates over.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        context = self.loader.multiprocessing_context or multiprocessing
        if self.loader.num_workers and context.get_start_method() != "fork":
            # to start it, which the others wait for, lets signals through again
            resource_tracker.ensure_running()
        before = multiprocessing.active_children()
        with out_of_their_reach():
            iterator = iter(self.loader)
        new = set(multiprocessing.active_children()).difference(before)
        _WORKERS.update(dict.fromkeys(new, os.getpid()))
        return iterator

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: see ``DataModule.state_dict``.

        That there is a state tells Lightning that a restart inside an epoch is handled.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: see ``DataModule.load_state_dict``."""


@atexit.register
def _kill_workers() -> None:
    """End the workers of a loader that is still there: Python would wait for them for ever."""
    for worker, parent in _WORKERS.items():
        if parent == os.getpid() and worker.is_alive():
            # torch would take its end for an error, and change the exit code
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            worker.kill()

"""Functions on several ranks, which torchrun's own launcher starts."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

IMPORTED = ["lightning.pytorch", "framework.command.cli", "modules", "datamodules", "callbacks"]
"""What the process has imported from which ranks are forked."""


def call_on_ranks(ranks: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what a function of the top level of a module returns on each rank.

    Raises:
        ChildFailedError: A rank raised; the others are ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id="benchmark",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="forkserver",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        results = elastic_launch(config, _call)(function, *args)
    return [results[rank] for rank in range(ranks)]


def _call(function: Callable[..., Any], *args: Any) -> Any:
    import torch
    import torch.distributed as dist
    from lightning.pytorch.utilities import rank_zero_only

    # Lightning was imported before it could read the rank
    rank_zero_only.rank = int(os.environ["RANK"])  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    result = function(*args)
    if dist.is_initialized():
        dist.destroy_process_group()
    return result

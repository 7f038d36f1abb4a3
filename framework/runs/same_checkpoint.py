"""Whether all ranks go on from one state, where each of them looks for it on its own disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist

from framework.distributed.collectives import world_size
from framework.runs.newest_checkpoint import step_of
from framework.utilities.tensor_archive import archive_digest

MOST_NAMED = 8
"""Ranks that are named in one message."""


def check_same_checkpoint(path: Any) -> None:
    """Compare the checkpoint that this rank is about to load with those of the others; collective.

    Args:
        path: Checkpoint of this rank, None where it begins anew.

    Raises:
        ValueError: They differ; on every rank.
    """
    if world_size() == 1:
        return
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, _found(path))
    if len({digest for digest, _ in found}) == 1:
        return
    states: dict[str, list[int]] = {}
    for number, (_, words) in enumerate(found):
        states.setdefault(words, []).append(number)
    said = "; ".join(f"{_ranks(ranks)}: {words}" for words, ranks in states.items())
    raise ValueError(
        f"The ranks would go on from different states ({said}): put the run folder, by "
        "--trainer.default_root_dir, on a disk that all machines see, or copy the checkpoint to "
        "each."
    )


def _found(path: Any) -> tuple[str, str]:
    """Return what identifies a state, and what is said of it."""
    if path is None:
        return "", "no checkpoint"
    if "://" in str(path):
        return str(path), str(path)
    if not Path(path).is_file():
        return "missing", f"{path} is not there"
    try:
        return archive_digest(path), f"{path}, step {step_of(Path(path))}"
    except (OSError, ValueError) as error:
        # where all have it, loading says so
        return "damaged", str(error).rstrip(".")


def _ranks(ranks: list[int]) -> str:
    named = ", ".join(str(number) for number in ranks[:MOST_NAMED])
    more = f" and {len(ranks) - MOST_NAMED} more" if len(ranks) > MOST_NAMED else ""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {named}{more}"

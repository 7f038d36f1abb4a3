"""Which of Lightning's messages a person gets to read."""

from __future__ import annotations

import logging
import warnings

WANTED = ("callbacks", "profilers", "tuner")
"""Packages of Lightning that say something only where a person has asked for it."""
NOT_WANTED = (
    # notes on hardware and cloud services, and Lightning's use of what torch has deprecated
    r".*isinstance\(treespec, LeafSpec\)",
    "The `srun` command is available",
    # what is logged at an epoch's end has been reduced over the ranks
    r".*recommended to use .*sync_dist=True",
    # a run that goes on in another folder has other checkpoints
    "The dirpath has changed from",
    # a short epoch: its means are logged whatever the interval
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # the command says it in its own words
    "Total length of .* across ranks is zero",
)


def choose_messages() -> None:
    """Show what callbacks and profilers say, and no other notes of Lightning."""
    for message in NOT_WANTED:
        warnings.filterwarnings("ignore", message=message)
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    for part in WANTED:
        logging.getLogger(f"lightning.pytorch.{part}").setLevel(logging.INFO)
    # by these, every part of Lightning speaks on rank 0
    for package in ("lightning.pytorch", "lightning.fabric"):
        shared = logging.getLogger(f"{package}.utilities.rank_zero")
        shared.setLevel(logging.INFO)
        if _is_wanted not in shared.filters:
            shared.addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    places = tuple(f"/lightning/pytorch/{part}/" for part in WANTED)
    path = record.pathname.replace("\\", "/")
    return record.levelno >= logging.WARNING or any(place in path for place in places)

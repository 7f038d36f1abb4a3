"""Which state a run goes on from: its newest whole one, however the run ended."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from framework.runs.checkpoint_form import check_form
from framework.runs.checkpoint_io import SHARD, side_directory
from framework.runs.job import is_on_several_machines
from framework.utilities.tensor_archive import load_archive


def newest_checkpoint(*folders: Path) -> Path | None:
    """Return the checkpoint of the most steps among those that training can go on from.

    A warning names each that is passed over because it is damaged, or because shards of
    per-sample memory are gone or cut off. Those that hold weights only are passed over, too. Of
    several of one step, ``last.ckpt`` is taken.

    Args:
        *folders: Folders in which the run's checkpoints lie directly, as ``*.ckpt``.

    Example:
        >>> newest_checkpoint(Path("no such folder")) is None
        True
    """
    steps = {}
    for path in (path for folder in folders for path in folder.glob("[!.]*.ckpt")):
        try:
            if path.is_file():
                steps[path] = step_of(path)
        except (OSError, ValueError) as error:
            _pass_over(error)
    for path in sorted(steps, key=lambda p: (steps[p], p.stem == "last", p.name), reverse=True):
        try:
            if _is_whole(path):
                return path
        except (OSError, ValueError) as error:
            _pass_over(error)
    return None


def step_of(path: Path) -> int:
    """Return the steps of a checkpoint, of which nothing else is read but its table of contents."""
    step = load_archive(path, mmap=True, key="global_step")
    check_form({"global_step": step}, path)
    return int(step)


def _is_whole(path: Path) -> bool:
    """Return whether there is all that training needs; every byte is compared with its checksum.

    Raises:
        ValueError: The file is damaged, or some of its side files are gone.
    """
    content: Any = load_archive(path, mmap=True)
    check_form(content, path)
    if "shards" in content:
        _check_shards(path, side_directory(path, content["shards"]))
    return "state_dict" in content and "optimizer_states" in content


def _check_shards(path: Path, shards: Path) -> None:
    """Refuse a checkpoint without the files of all ranks that wrote its per-sample memory.

    Each of several machines may have those of its own ranks alone. Of a file its end is looked at,
    where the archive's table of contents is: all ranks read the content of theirs later.

    Raises:
        ValueError: A file is missing, or its end is.
    """
    writers: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for file in shards.iterdir() if shards.is_dir() else ():
        if found := SHARD.fullmatch(file.name):
            writers[found[1], int(found[3])].add(int(found[2]))
            load_archive(file, mmap=True, key="num_samples")
    whole = all(len(ranks) == total for (_, total), ranks in writers.items())
    if not writers or not (whole or is_on_several_machines()):
        raise ValueError(f"{path} lacks shards of its per-sample memory, in {shards.name}.")


def _pass_over(error: Exception) -> None:
    rank_zero_warn(f"{str(error).rstrip('.')}; it is passed over.")

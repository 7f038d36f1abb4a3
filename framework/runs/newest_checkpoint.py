"""Which state a run goes on from: its newest whole one, however the run ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from framework.runs.checkpoint_form import check_form
from framework.runs.checkpoint_io import side_directory
from framework.utilities.tensor_archive import load_archive


def newest_checkpoint(*folders: Path) -> Path | None:
    """Return the checkpoint of the most steps among those that training can go on from.

    A warning names each that is passed over because it is damaged, or because its shards of
    per-sample memory are gone. Those that hold weights only are passed over, too. Of several of one
    step, ``last.ckpt`` is taken.

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
        ValueError: The file is damaged, or its side files are gone.
    """
    content: Any = load_archive(path, mmap=True)
    check_form(content, path)
    if "shards" in content:
        shards = side_directory(path, content["shards"])
        if not shards.is_dir():
            raise ValueError(f"{path} lacks its shards of per-sample memory, {shards.name}.")
    return "state_dict" in content and "optimizer_states" in content


def _pass_over(error: Exception) -> None:
    rank_zero_warn(f"{str(error).rstrip('.')}; it is passed over.")

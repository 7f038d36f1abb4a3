"""Checkpoints that are written whole or not at all, and read without running what is in them."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from framework.runs.checkpoint_form import check_form, unreadable_part
from framework.runs.version_0_1 import current_checkpoint
from framework.utilities.files import (
    remove_file,
    remove_flat_folder,
    remove_parts,
    write_atomically,
)
from framework.utilities.lightning_internals import set_checkpoint_io
from framework.utilities.tensor_archive import load_archive

TOKEN = re.compile(r"[0-9a-f]{12}")
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.pt", re.DOTALL)
"""Name of a table, of the rank that wrote the file, and how many ranks did."""


def side_directory(path: Path, token: str) -> Path:
    """Return where the shards of per-sample memory that belong to a checkpoint lie.

    Raises:
        ValueError: The token is none that ``new_token`` gives.
    """
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise ValueError(f"{path} names shards {token!r}, which are none of a checkpoint.")
    return path.with_name(f"{path.name}.{token}.shards")


def new_token() -> str:
    """Return a name for one version of a checkpoint's side files."""
    return uuid.uuid4().hex[:12]


def use_atomic_checkpoints(trainer: Trainer) -> None:
    """Let a Trainer write, read and remove checkpoints by ``AtomicCheckpointIO``."""
    set_checkpoint_io(trainer, AtomicCheckpointIO())


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, replaced atomically and loaded as data.

    Side files of an older version of the same checkpoint are removed once the new one is in place.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``; warn of what ``load_checkpoint`` would refuse."""
        unreadable = unreadable_part(checkpoint)
        if unreadable:
            rank_zero_warn(
                "Checkpoints of this run cannot be continued or tested, as they hold more than "
                f"tensors and plain containers: {unreadable}; keep it as a text or a number."
            )
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        write_atomically(target, lambda file: torch.save(checkpoint, file))
        remove_parts(target.parent)
        remove_shards(target, checkpoint.get("shards"))

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, loc: storage, weights_only: Any = None
    ) -> dict[str, Any]:
        """Read a checkpoint by ``load_archive``, to the CPU; names of version 0.1 are translated.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is damaged, or holds more than tensors and plain containers; nothing of
                it was run.
        """
        if "://" not in str(path) and not Path(path).is_file():
            raise FileNotFoundError(f"There is no checkpoint at {path}.")
        loaded = load_archive(path)
        if not isinstance(loaded, dict) or "state_dict" not in loaded:
            raise ValueError(f"{path} is not a Lightning checkpoint: it has no 'state_dict'.")
        check_form(loaded, path)
        return current_checkpoint(loaded)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, which is one file, and its side files; a folder stays."""
        if "://" in str(path):
            files = get_filesystem(path)
            if files.isfile(path):
                files.rm_file(path)
            return
        target = Path(path)
        if target.suffix != ".ckpt" or (target.is_dir() and not target.is_symlink()):
            rank_zero_warn(f"{path} is no checkpoint file and was not removed.")
            return
        remove_file(target)
        remove_shards(target)


def remove_shards(checkpoint: Path, *kept: str | None) -> None:
    """Remove the side files of a checkpoint, but for the versions that are kept."""
    name = re.compile(rf"{re.escape(checkpoint.name)}\.({TOKEN.pattern})\.shards")
    for folder in checkpoint.parent.iterdir() if checkpoint.parent.is_dir() else ():
        found = name.fullmatch(folder.name)
        if found and found[1] not in kept:
            remove_flat_folder(folder, SHARD)

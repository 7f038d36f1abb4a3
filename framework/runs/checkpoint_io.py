"""Checkpoints that are written whole or not at all, and read without running what is in them."""

from __future__ import annotations

import pickle
import re
import shutil
import struct
import uuid
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from framework.runs.version_0_1 import current_checkpoint
from framework.utilities.files import write_atomically


def side_directory(path: Path, token: str) -> Path:
    """Return where the shards of per-sample memory that belong to a checkpoint lie."""
    return path.with_name(f"{path.name}.{token}.shards")


def new_token() -> str:
    """Return a name for one version of a checkpoint's side files."""
    return uuid.uuid4().hex[:12]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, replaced atomically and loaded with ``weights_only=True``.

    Side files of an older version of the same checkpoint are removed once the new one is in place.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        write_atomically(target, lambda file: torch.save(checkpoint, file))
        keep = checkpoint.get("shards")
        for stale in target.parent.glob(f"{target.name}.*.shards"):
            if keep is None or stale != side_directory(target, keep):
                shutil.rmtree(stale, ignore_errors=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, loc: storage, weights_only: Any = None
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain containers; names of version 0.1 are translated.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is truncated, or holds anything else; nothing of it was executed.
        """
        if "://" not in str(path) and not Path(path).is_file():
            raise FileNotFoundError(f"There is no checkpoint at {path}.")
        try:
            loaded = super().load_checkpoint(path, map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            # torch's own text goes on to advise loading it all the same
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f" (it names {named.group(1)})" if named else ""
            raise ValueError(
                f"{path} holds more than tensors and plain containers{what} and was not loaded."
            ) from error
        except (RuntimeError, EOFError, LookupError, ValueError, struct.error) as error:
            raise ValueError(f"{path} is not a whole checkpoint.") from error
        if not isinstance(loaded, dict) or "state_dict" not in loaded:
            raise ValueError(f"{path} is not a Lightning checkpoint: it has no 'state_dict'.")
        return current_checkpoint(loaded)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its side files."""
        super().remove_checkpoint(path)
        target = Path(path)
        if "://" not in str(path):
            for shards in target.parent.glob(f"{target.name}.*.shards"):
                shutil.rmtree(shards, ignore_errors=True)

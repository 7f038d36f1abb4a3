"""Memory that all processes of a node share, in a file without a name."""

from __future__ import annotations

import math
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from framework.distributed.collectives import barrier, rank, world_size
from framework.utilities.files import make_folder, remove_file


def shared_zeros(size: tuple[int, ...], dtype: torch.dtype, directory: Path) -> Tensor:
    """Return a tensor of zeros in a file that all ranks map; called on every rank.

    Rank 0 makes the file and unlinks it as soon as all ranks have mapped it: its space is free when
    the last process ends, even if it is killed.

    Args:
        size: Shape of the tensor.
        dtype: Data type of the tensor.
        directory: Directory of the file, on a disk of this node; made if it does not exist.

    Raises:
        ValueError: the ranks are on several nodes.
        OSError: the file cannot be made, or there is no room for it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from framework.distributed.shared_file import shared_zeros
        >>> shared_zeros((2,), torch.float16, Path(tempfile.gettempdir()))
        tensor([0., 0.], dtype=torch.float16)
    """
    elements = math.prod(size)
    path: str | None = None
    failure: str | None = None
    if rank() == 0:
        try:
            path = _new_file(elements * dtype.itemsize, directory)
        except OSError as error:
            failure = str(error)
    answers: list[Any] = [(platform.node(), path, failure)] * world_size()
    if world_size() > 1:
        dist.all_gather_object(answers, answers[0])
    _, shared_path, failure = answers[0]
    if failure is not None:
        raise OSError(f"No file for per-sample memory could be made: {failure}")
    try:
        nodes = sorted({node for node, _, _ in answers})
        if len(nodes) > 1:
            raise ValueError(
                f"layout='memmap' needs all ranks on one node, but they are on {nodes}: use "
                "'exchange'."
            )
        table = torch.from_file(shared_path, shared=True, size=elements, dtype=dtype).view(size)
        barrier()
    finally:
        if path is not None:
            remove_file(Path(path))
    return table


def _new_file(num_bytes: int, directory: Path) -> str:
    make_folder(directory)
    free = shutil.disk_usage(directory).free
    if free < num_bytes:
        # a mapped file that runs out of space would end the process without a word
        raise OSError(f"{directory} has {free / 1e9:.1f} GB free, not {num_bytes / 1e9:.1f} GB.")
    handle, path = tempfile.mkstemp(prefix="sample-state-", dir=directory)
    with os.fdopen(handle, "wb") as file:
        file.truncate(num_bytes)
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, num_bytes))
            except OSError:
                remove_file(Path(path))
                raise
    return path

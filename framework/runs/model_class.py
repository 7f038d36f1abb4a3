"""Which class of module a checkpoint is of, and whether another class can take it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule

from framework.utilities.tensor_archive import load_archive

KEY = "model_classes"
"""Where a checkpoint keeps the paths of its module's class and of the bases of that."""
OURS = "modules."
"""What the path of a module of Trimtab begins with."""


def class_paths(kind: type) -> list[str]:
    """Return the path of a class of modules, and after it those of its bases that are modules.

    Example:
        >>> class_paths(LightningModule)
        ['lightning.pytorch.core.module.LightningModule']
    """
    kinds = [one for one in kind.__mro__ if issubclass(one, LightningModule)]
    return [f"{one.__module__}.{one.__qualname__}" for one in kinds]


def read_model_classes(checkpoint: str | Path) -> list[str]:
    """Return what ``class_paths`` gave when a checkpoint was written, nothing where it is unknown.

    What is wrong with such a file is said where it is loaded as a whole.
    """
    if not Path(checkpoint).is_file():
        return []
    try:
        recorded: Any = load_archive(checkpoint, mmap=True, key=KEY)
    except (ValueError, OSError):
        return []
    is_list = isinstance(recorded, list) and all(isinstance(one, str) for one in recorded)
    return list(recorded) if is_list else []


def other_class(recorded: Sequence[str], kind: type) -> str | None:
    """Return the name of a checkpoint's class where a class of modules cannot take it.

    A class and one that is derived from it may take each other's. Whether two classes of a
    person's own fit shows when the weights are loaded, as one may be the other's new name.

    Args:
        recorded: What ``class_paths`` gave when the checkpoint was written, nothing if unknown.
        kind: Class that is to take it.

    Example:
        >>> other_class(["modules.gghl.module.GGHL"], LightningModule)
        'GGHL'
    """
    present = class_paths(kind)
    if not recorded or not any(path.startswith(OURS) for path in (recorded[0], present[0])):
        return None
    theirs, ours = ([path.rpartition(".")[2] for path in paths] for paths in (recorded, present))
    return None if theirs[0] in ours or ours[0] in theirs else theirs[0]

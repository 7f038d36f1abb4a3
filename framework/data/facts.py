"""What training found its data to be: read off a datamodule, kept in checkpoints, used again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from framework.objectives.errors import IncompatibleError
from framework.utilities.tensor_archive import load_archive

KEY = "data_facts"
"""Where a checkpoint keeps the facts, whatever the class of the datamodule."""
FACTS = (
    "origin",
    "num_classes",
    "class_names",
    "slot_classes",
    "input_shape",
    "resize",
    "normalize",
    "second_shape",
    "input_size",
    "num_targets",
    "feature_names",
    "target_names",
    "input_mean",
    "input_std",
    "target_mean",
    "target_std",
    "column_names",
    "categories",
    "fill_values",
    "activation_scales",
    "vocabulary",
    "vocabulary_size",
    "token_level",
)
"""Attributes that describe the data, each known at the latest after ``setup``."""
LONGEST = 20
"""Names that a message lists of a longer list."""

Facts = dict[str, Any]


def copy_facts(
    source: LightningDataModule, target: LightningDataModule, names: Sequence[str] = FACTS
) -> None:
    """Set the facts that ``source`` has on ``target``, which serves its samples.

    Args:
        source: Data that are wrapped.
        target: Data that wrap them.
        names: Facts that are those of both; default all.
    """
    for name in names:
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def facts_of(data: object) -> Facts:
    """Return what a datamodule knows of its data, as plain containers and tensors.

    Example:
        >>> class Data:
        ...     class_names = ("cat", "dog")
        >>> facts_of(Data())
        {'class_names': ['cat', 'dog']}
    """
    found = {name: _plain(getattr(data, name, None)) for name in FACTS}
    return {name: value for name, value in found.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [_plain(part) for part in value]
    if isinstance(mean := getattr(value, "mean", None), Tensor):  # a normalization
        return {"mean": mean.flatten().tolist(), "std": value.std.flatten().tolist()}
    return None


def same_facts(one: Any, other: Any) -> bool:
    """Return whether two facts, or dicts of them, are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_facts(one[k], other[k]) for k in one)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def read_facts(checkpoint: str | Path) -> Facts:
    """Return the facts in a checkpoint; none if it has none, or cannot be read as one.

    What is wrong with such a file is said where it is loaded as a whole.
    """
    if not Path(checkpoint).is_file():
        return {}
    try:
        facts = load_archive(checkpoint, mmap=True, key=KEY)
    except (ValueError, OSError):
        return {}
    return facts if isinstance(facts, dict) else {}


def match_classes(found: Sequence[str], trained: Sequence[str], source: object) -> list[int]:
    """Return the number that each class had in training, by its name.

    Args:
        found: Names of the classes of the data, by label.
        trained: Names of the classes in training, by label.
        source: Data in the message.

    Raises:
        IncompatibleError: A class that was not trained; the message has both lists.

    Example:
        >>> match_classes(["dog", "cat"], ["cat", "dog", "fox"], "new")
        [1, 0]
    """
    numbers = {name: number for number, name in enumerate(trained)}
    unknown = [name for name in found if name not in numbers]
    if unknown:
        raise IncompatibleError(
            f"{source} has the classes {listed(found)}, and the model was trained on "
            f"{listed(trained)}: {listed(unknown)} cannot be told by it; rename or remove "
            f"{'it' if len(unknown) == 1 else 'them'}, or train anew."
        )
    return [numbers[name] for name in found]


def listed(names: Sequence[str]) -> str:
    """Return names for a message, the first of them where there are many."""
    shown = ", ".join(names[:LONGEST])
    return f"{shown} and {len(names) - LONGEST:,} more" if len(names) > LONGEST else shown


def model_arguments(kind: type, facts: Facts, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a module that nobody gave and that follow from its data.

    Args:
        kind: Class of the module, whose ``arguments_from_data`` names a fact for each argument.
        facts: Facts of the data.
        given: Arguments; one that is None counts as not given.
    """
    sources: Mapping[str, str] = getattr(kind, "arguments_from_data", {})
    return {
        argument: facts[fact]
        for argument, fact in sources.items()
        if given.get(argument) is None and fact in facts
    }

"""Batches of any loader as dicts of named fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from framework.data.datasets import Batch
from framework.objectives.errors import IncompatibleError


def named_fields(
    batch: Any, reader: str, required: Sequence[str], tuple_fields: Sequence[str] = ()
) -> Batch:
    """Return a batch as a dict of named fields.

    Args:
        batch: What a loader gives: a dict, a tuple or list of tensors, or one tensor.
        reader: Name of what reads the batch, for the message.
        required: Fields that the batch must have.
        tuple_fields: Names of the parts of a tuple; without them a tuple is refused.

    Raises:
        IncompatibleError: The batch is of another kind, or lacks a field.

    Example:
        >>> named_fields(["an image", 3], "Classifier", ("image",), ("image", "label"))
        {'image': 'an image', 'label': 3}
    """
    if not isinstance(batch, dict):
        parts = [batch] if isinstance(batch, Tensor) else batch
        if not isinstance(parts, (tuple, list)) or not 0 < len(parts) <= len(tuple_fields):
            kind = type(batch).__name__
            given = f"{kind} of {len(batch)}" if isinstance(batch, (tuple, list)) else kind
            known = f" or tuples ({', '.join(tuple_fields)})" if tuple_fields else ""
            raise IncompatibleError(
                f"{reader} reads batches that are dicts with {' and '.join(required)}{known}, and "
                f"this loader gives a {given}."
            )
        batch = dict(zip(tuple_fields, parts, strict=False))
    for name in required:
        if name not in batch:
            raise IncompatibleError(
                f"{reader} needs the field {name!r}, and the batches of this loader have only "
                f"{', '.join(map(str, batch)) or 'no fields'}."
            )
    return batch

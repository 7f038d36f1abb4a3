"""Which gradient norm describes the steps of an optimizer: that of SGD, or that of Adam."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer

KINDS: dict[str, tuple[str, ...]] = {
    "sgd": ("SGD", "ASGD", "PowerpropSGD"),
    "adam": (
        "Adam",
        "AdamW",
        "Adamax",
        "NAdam",
        "RAdam",
        "SparseAdam",
        "Adafactor",
        "Adagrad",
        "Adadelta",
        "RMSprop",
        "LionK",
    ),
}
"""Names of optimizers, which their subclasses share: steps along the gradient, or per entry."""
COLUMNS = {"sgd": "l2", "adam": "l1"}
"""Norm by the kind."""


def kind_of(optimizer: Optimizer) -> Literal["sgd", "adam"] | None:
    """Return whether an optimizer steps along the gradient or scales each entry; None if unknown.

    ``KINDS`` lists them by name.

    Args:
        optimizer: Optimizer.

    Example:
        >>> import torch
        >>> kind_of(torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]))
        'adam'
    """
    for base in type(optimizer).__mro__:
        if (kind := kind_of_name(base.__name__)) is not None:
            return kind
    return None


def kind_of_name(name: str) -> Literal["sgd", "adam"] | None:
    """Return the kind of an optimizer's class by its name; None if unknown."""
    if name in KINDS["sgd"]:
        return "sgd"
    return "adam" if name in KINDS["adam"] else None

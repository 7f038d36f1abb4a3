"""Batches of tasks that are solved side by side until each has converged."""

from __future__ import annotations

import torch
from torch import Tensor

LEFT = 0.75
"""Share of the tasks that may go on for the batch to be reduced to them."""
WAIT = 8
"""Iterations after which a GPU is asked which tasks go on, as every question makes it wait."""


def asks_after(iteration: int, device: torch.device) -> bool:
    """Return whether to ask after an iteration how many tasks go on.

    Args:
        iteration: Number of the iteration, from 0.
        device: Device of the tasks.

    Example:
        >>> [asks_after(7, torch.device(name)) for name in ("cpu", "cuda")]
        [True, True]
        >>> [asks_after(8, torch.device(name)) for name in ("cpu", "cuda")]
        [True, False]
    """
    return device.type == "cpu" or (iteration + 1) % WAIT == 0


def is_worth_reducing(left: int, going: Tensor) -> bool:
    """Return whether so few tasks go on that those at rest are better put aside.

    Args:
        left: Number of tasks that go on.
        going: Whether a task goes on, (T,) bool.

    Example:
        >>> going = torch.tensor([True, False, True, True])
        >>> is_worth_reducing(3, going), is_worth_reducing(3, going[:3])
        (True, False)
    """
    return left <= LEFT * len(going)

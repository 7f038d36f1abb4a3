"""Temporary evaluation mode of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every part of it back into its own afterwards."""
    # of every part: one may be in evaluation mode for good
    modes = {part: part.training for part in module.modules()}
    try:
        # not by eval(), which may be overridden
        for part in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode

"""A data loader whose position in the epoch is kept by its datamodule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from framework.data.datasets import Batch


class ElasticDataLoader:
    """An iterable over batches, whose place in the epoch is kept by the datamodule.

    It wraps a ``DataLoader`` instead of being one, so that Lightning does not put samplers of its
    own in the place of ours.

    Args:
        loader: Loader that it iterates over.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: see ``DataModule.state_dict``.

        That there is a state tells Lightning that a restart inside an epoch is handled.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: see ``DataModule.load_state_dict``."""

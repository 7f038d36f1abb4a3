"""Batches of held-out data beside those that are trained, in a stream of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lightning.pytorch import Trainer

from framework.data.datamodule import DataModule
from framework.data.samplers import SampleKey


class GuideStream:
    """Yields the batches of a datamodule's ``guide_set``, pass after pass, in random order.

    Attributes:
        drawn: Number of batches that were drawn; a resumed run sets it.
    """

    def __init__(self) -> None:
        self.drawn = 0
        self._loader: Any = None
        self._skip = False
        self._batches: Iterator[Any] | None = None

    def open(self, data: DataModule, batch_size: int) -> None:
        """Make the loader of what is held out now.

        Args:
            data: Datamodule with a ``guide_set``.
            batch_size: Rows of a global batch.
        """
        self._batches, self._skip = None, False
        self._loader = data.guide_dataloader(batch_size, self._place)

    def follow(self, loader: Iterable[Any]) -> None:
        """Take the batches of a loader of a person's own, pass after pass.

        Args:
            loader: Loader with a length.
        """
        self._loader, self._batches, self._skip = loader, None, True

    def close(self) -> None:
        """Forget the loader, but not the place in the stream."""
        self._batches = self._loader = None

    def restart(self, drawn: int = 0) -> None:
        """Go on after a number of batches."""
        self.drawn, self._batches = drawn, None

    def next(self, trainer: Trainer) -> Any:
        """Return this rank's part of the next global batch, on the device."""
        assert self._loader is not None
        batch = None if self._batches is None else next(self._batches, None)
        if batch is None:
            self._batches = iter(self._loader)
            if self._skip:
                # it begins each pass anew, also where a run goes on within one
                for _ in range(self._place()[1]):
                    next(self._batches)
            batch = next(self._batches)
        self.drawn += 1
        batch = trainer.precision_plugin.convert_input(batch)
        return trainer.strategy.batch_to_device(batch)

    def _place(self) -> SampleKey:
        """Return where the stream stands: (pass, batches of it that were drawn)."""
        assert self._loader is not None
        return divmod(self.drawn, len(self._loader))

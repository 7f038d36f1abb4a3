"""Batches of held-out data beside those that are trained, in a stream of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lightning.pytorch import Trainer

from framework.data.datamodule import DataModule
from framework.data.samplers import SampleKey
from framework.objectives.errors import IncompatibleError


class GuideStream:
    """Yields the batches of a datamodule's ``guide_set``, pass after pass, in random order.

    Attributes:
        drawn: Number of batches that were drawn; a resumed run sets it.
    """

    def __init__(self) -> None:
        self.drawn = 0
        self._loader: Any = None
        self._skip = 0
        self._batches: Iterator[Any] | None = None

    def begin(self, data: DataModule, batch_size: int) -> None:
        """Make the loader of what is held out now.

        Args:
            data: Datamodule with a ``guide_set``.
            batch_size: Rows of a global batch.
        """
        self._batches, self._skip = None, 0
        self._loader = data.guide_dataloader(batch_size, self._place)

    def follow(self, loader: Iterable[Any]) -> None:
        """Take the batches of a loader of a person's own, pass after pass.

        It begins each pass anew, also where a run goes on within one: batches that were drawn
        before are drawn once more, of a loader without a length those of all passes.

        Args:
            loader: Loader.
        """
        self._loader, self._batches = loader, None
        try:
            self._skip = self._place()[1]
        except (TypeError, NotImplementedError):
            self._skip = self.drawn

    def close(self) -> None:
        """Forget the loader, but not the place in the stream."""
        self._batches = self._loader = None

    def restart(self, drawn: int = 0) -> None:
        """Go on after a number of batches."""
        self.drawn, self._batches = drawn, None

    def next(self, trainer: Trainer) -> Any:
        """Return this rank's part of the next global batch, on the device.

        Raises:
            IncompatibleError: The loader has no batch, or no second pass.
        """
        for _ in range(self._skip):
            self._next()
        self._skip = 0
        batch = self._next()
        self.drawn += 1
        batch = trainer.precision_plugin.convert_input(batch)
        return trainer.strategy.batch_to_device(batch)

    def _next(self) -> Any:
        """Return the next batch of this pass, or the first of another one."""
        assert self._loader is not None
        for _ in range(2):
            if self._batches is None:
                self._batches = iter(self._loader)
            for batch in self._batches:
                return batch
            self._batches = None
        raise IncompatibleError(
            f"The loader of held-out batches, a {type(self._loader).__name__}, has no batch to "
            "give, or gives its batches once only: take one that can be passed through again."
        )

    def _place(self) -> SampleKey:
        """Return where the stream stands: (pass, batches of it that were drawn)."""
        assert self._loader is not None
        return divmod(self.drawn, max(1, len(self._loader)))

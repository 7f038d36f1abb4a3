"""The hyperparameters that the response layers of one network see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from torch import Tensor

from framework.utilities.checks import check_at_least


class Conditioning:
    """Holds the hyperparameters h that response layers read; ``at`` sets them for a block of code.

    All response layers of one conversion share one object, so that no ``forward`` has to pass h on.
    A deep copy of a network sees the same hyperparameters.

    Shapes: h (n,) for all rows alike, or (B, n) with row b for sample b.

    Paper: MacKay et al., Self-Tuning Networks, ICLR 2019, arXiv:1903.03088; centered, Bae and
    Grosse, Delta-STN, NeurIPS 2020, arXiv:2010.13514.

    Args:
        num_hyperparameters: Number n of hyperparameters.
        source: Function that returns the h (n,) outside of ``at``; None makes a forward there an
            error.
        centered: Whether layers see h minus the current value of ``source``, which gets no
            gradient, so that their base weights are the response at the current h.

    Attributes:
        was_read: Whether a layer has read them yet.

    Raises:
        ValueError: ``num_hyperparameters`` is below 1, or h has another shape.
        RuntimeError: h is read outside of ``at``, or centered, and there is no ``source``.

    Example:
        >>> import torch
        >>> conditioning = Conditioning(2, source=lambda: torch.tensor([1.0, 3.0]), centered=True)
        >>> with conditioning.at(torch.tensor([[1.0, 4.0], [2.0, 3.0]])):
        ...     conditioning.of(rows=2)
        tensor([[0., 1.],
                [1., 0.]])
        >>> conditioning.of(rows=2)
        tensor([0., 0.])
    """

    def __init__(
        self,
        num_hyperparameters: int,
        source: Callable[[], Tensor] | None = None,
        centered: bool = False,
    ) -> None:
        check_at_least(1, num_hyperparameters=num_hyperparameters)
        self.num_hyperparameters = num_hyperparameters
        self.source = source
        self.centered = centered
        self._current: Tensor | None = None
        self._in_training_only = False
        self.was_read = False

    @contextmanager
    def at(self, h: Tensor, in_training_only: bool = False) -> Iterator[None]:
        """Let the layers see ``h`` within a ``with`` block; blocks may be nested.

        Args:
            h: (n,) or (B, n).
            in_training_only: Whether layers in evaluation mode see what they do outside of the
                block, so that a step may evaluate other rows than those it trains.
        """
        self._check(h)
        before = self._current, self._in_training_only
        self._current, self._in_training_only = h, in_training_only
        try:
            yield
        finally:
            self._current, self._in_training_only = before

    def of(
        self, rows: int | None = None, layer: str = "A response layer", training: bool = True
    ) -> Tensor:
        """Return what a layer sees.

        Args:
            rows: Number of samples in the layer's input; None where any number fits.
            layer: Name of the layer in messages.
            training: Whether the layer is in training mode.

        Returns:
            (n,), or (rows, n).
        """
        self.was_read = True
        h = None if self._in_training_only and not training else self._current
        if h is None:
            h = self._from_source(layer)
            self._check(h)
        if h.dim() == 2 and rows is not None and len(h) != rows:
            raise ValueError(
                f"{layer} got an input of {rows} rows, but there are hyperparameters for {len(h)} "
                "samples: keep one row for each sample up to this layer, exclude it from the "
                "conversion, or give one h (n,) for all (per_sample=False of SelfTuning)."
            )
        return self.seen(h, layer)

    def seen(self, h: Tensor, layer: str = "A response layer") -> Tensor:
        """Return ``h`` as a layer sees it: itself, or its distance from the center."""
        return h - self._from_source(layer).detach() if self.centered else h

    def _from_source(self, layer: str) -> Tensor:
        if self.source is None:
            raise RuntimeError(
                f"{layer} has no hyperparameters to read: call the network within "
                "`with conditioning.at(h):`, or set conditioning.source."
            )
        return self.source()

    def _check(self, h: Tensor) -> None:
        n = self.num_hyperparameters
        if h.dim() not in (1, 2) or h.shape[-1] != n:
            raise ValueError(
                f"Hyperparameters must have shape ({n},) or (B, {n}), got {tuple(h.shape)}."
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

"""Dropout whose mask does not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.distributed.collectives import draw_for_global_batch, shared_generator
from framework.layers.random_layer import RandomLayer
from framework.utilities.checks import check_interval
from framework.utilities.graph_operation import graph_operation


class GlobalDropout(RandomLayer):
    """Zeroes elements with probability p in training and divides the others by 1 - p.

    As ``torch.nn.Dropout``, but the mask is drawn for the global batch and sliced, from a function
    of the run's seed, ``stream`` and the number of training forwards so far: W ranks drop what one
    process would, and a resumed run what it would have dropped. That number is in the
    ``state_dict``.

    Shapes: (B, ...) to the same; a rank's B may be 0. In training every rank must call it.

    Args:
        p: Probability of a zero, in [0, 1).
        stream: Name of the random stream: layers of one stream draw the same numbers in the same
            forward; give every layer of a network a stream of its own.

    Raises:
        ValueError: ``p`` is out of its range.

    Example:
        >>> import torch
        >>> from framework.layers import GlobalDropout
        >>> sorted(set(GlobalDropout(0.5, stream="input")(torch.ones(4, 100)).flatten().tolist()))
        [0.0, 2.0]
    """

    def __init__(self, p: float, stream: str) -> None:
        super().__init__(stream)
        check_interval("[0, 1)", p=p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with elements dropped, in evaluation ``x`` itself."""
        if not self.training or self.p == 0:
            return x
        noise = _uniform(self._count, self.seed, self.stream, x.shape, x.device)
        self._count += 1
        return torch.where(noise >= self.p, x / (1 - self.p), 0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # in a checkpoint of version 0.1 it may have been a layer without a state
        state_dict.setdefault(f"{prefix}_extra_state", {"count": 0})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"p={self.p}, stream={self.stream!r}"


def empty_rows(
    count: Tensor, seed: int, stream: str, shape: Sequence[int], device: torch.device, *_: object
) -> Tensor:
    """Return a tensor like the noise that is drawn for these arguments."""
    return torch.empty(shape, dtype=torch.float32, device=device)


@graph_operation(empty_rows)
def _uniform(
    count: Tensor, seed: int, stream: str, shape: Sequence[int], device: torch.device
) -> Tensor:
    """Return this rank's rows of uniform numbers for the global batch."""
    generator = shared_generator(seed, int(count), stream, device)
    # in one dtype, as each draws other numbers and the default is that of the run's precision
    return draw_for_global_batch(
        lambda rows, g: torch.rand(
            rows, *shape[1:], generator=g, dtype=torch.float32, device=device
        ),
        shape[0],
        generator,
    )

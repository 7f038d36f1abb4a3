"""Blocks that are computed again in the backward pass instead of keeping their activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Return ``block(x)``, of which the backward pass recomputes what it needs.

    Batch norm sees each batch twice so, and tracks its statistics once, as without.

    Args:
        block: Block that draws no random numbers.
        x: Input of the block.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _untracked(block)

    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _untracked(block: nn.Module) -> Iterator[None]:
    """Let the block's batch norms track the statistics in copies that are thrown away."""
    tracking = [
        layer
        for layer in block.modules()
        if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats
    ]
    kept = [dict(layer.named_buffers()) for layer in tracking]
    for layer, buffers in zip(tracking, kept, strict=True):
        for name, buffer in buffers.items():
            setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, buffers in zip(tracking, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(layer, name, buffer)

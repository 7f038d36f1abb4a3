"""DropBlock whose mask does not depend on the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import draw_for_global_batch, shared_generator
from framework.layers.dropout import GlobalDropout, empty_rows
from framework.utilities.graph_operation import graph_operation


class GlobalDropBlock(GlobalDropout):
    """Zeroes square blocks of a map in training, the same in all channels, and rescales the rest.

    Every place is the center of a block with probability p / block², and what is kept is divided by
    the share that is kept of the global batch. As with ``GlobalDropout`` the blocks are drawn for
    the global batch and sliced, and a resumed run drops what it would have dropped.

    Shapes: (B, C, H, W) to the same; a rank's B may be 0. In training every rank must call it.

    Paper: Ghiasi, Lin, Le, *DropBlock: A regularization method for convolutional networks*,
    arXiv:1810.12890. There channels drop blocks of their own, and p is divided by the share of
    places that can be a center, too; one mask for all channels, without that factor, is that of the
    package ``dropblock``, which GGHL's released code uses.

    Args:
        p: Probability of a zero, in [0, 1), where blocks do not overlap.
        stream: Name of the random stream, one for each layer of a network.
        block: Width and height of a block, an odd number.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from framework.layers import GlobalDropBlock
        >>> dropped = GlobalDropBlock(0.3, stream="neck")(torch.ones(1, 2, 8, 8)) == 0
        >>> bool(dropped.any()), torch.equal(dropped[0, 0], dropped[0, 1])
        (True, True)
    """

    def __init__(self, p: float, stream: str, block: int = 3) -> None:
        super().__init__(p, stream)
        if block < 1 or block % 2 == 0:
            raise ValueError(f"block must be an odd number of at least 1, got {block}.")
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with blocks dropped, in evaluation ``x`` itself."""
        if not self.training or self.p == 0:
            return x
        shape = (len(x), 1, *x.shape[2:])
        scale = _scale(self._count, self.seed, self.stream, shape, x.device, self.p, self.block)
        self._count += 1
        return x * scale.to(x.dtype)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, block={self.block}"


@graph_operation(empty_rows)
def _scale(
    count: Tensor,
    seed: int,
    stream: str,
    shape: Sequence[int],
    device: torch.device,
    p: float,
    block: int,
) -> Tensor:
    """Return 0 in blocks, elsewhere the number of places over that of those kept.

    Both numbers are of the global batch, of which this rank gets its rows.
    """

    def of_all(rows: int, generator: torch.Generator) -> Tensor:
        noise = torch.rand(
            rows, *shape[1:], generator=generator, dtype=torch.float32, device=device
        )
        centers = (noise < p / block**2).float()
        kept = 1 - F.max_pool2d(centers, block, stride=1, padding=block // 2)
        return kept * (kept.numel() / kept.sum().clamp(min=1))

    generator = shared_generator(seed, int(count), stream, device)
    return draw_for_global_batch(of_all, shape[0], generator)

"""Embedding table that responds to hyperparameters."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.layers.response.conditioning import Conditioning
from framework.layers.response.layer import ResponseLayer


class ResponseEmbedding(ResponseLayer, nn.Embedding):
    """Embedding ``E0[t] + (V h) * E1[t]`` of tokens t, with one gate for each column.

    A decoder that is tied to the table is tied to E0 alone, as in the released code.

    Shapes: (B, ...) int64 to (B, ..., D); h (n,), or (B, n) where the gates of row b hold for all
    its tokens.

    Paper: MacKay et al., Self-Tuning Networks, ICLR 2019, arXiv:1903.03088, appendix on LSTMs.

    Args:
        num_embeddings: Number of rows of the table.
        embedding_dim: Number D of columns.
        conditioning: Holder of the hyperparameters.
        gate_scale: Standard deviation of V at the start.
        padding_idx: Token whose vector is 0 at any h and learns nothing.
        scale_grad_by_freq: Whether gradients are divided by how often a token comes.
        sparse: Whether gradients are sparse.
        device: Device of the parameters.
        dtype: Type of the parameters; gates are in float32 at least.

    Example:
        >>> import torch
        >>> from framework.layers import Conditioning, ResponseEmbedding
        >>> layer = ResponseEmbedding(10, 4, Conditioning(2))
        >>> with layer.conditioning.at(torch.zeros(3, 2)):
        ...     layer(torch.tensor([[1, 2], [3, 4], [5, 6]])).shape
        torch.Size([3, 2, 4])
    """

    ordinary = nn.Embedding
    suffix = "_column_gate"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        conditioning: Conditioning,
        gate_scale: float = 0.01,
        padding_idx: int | None = None,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            device=device,
            dtype=dtype,
        )
        self.start_response(conditioning, gate_scale)

    @staticmethod
    def check(layer: nn.Module, name: str) -> None:
        """Refuse a table whose rows are scaled in place."""
        if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
            raise ValueError(
                f"The Embedding {name!r} has max_norm={layer.max_norm}, which rescales its rows in "
                "place and has no response: exclude it, or set max_norm to None."
            )

    def start_response(
        self, conditioning: Conditioning, gate_scale: float = 0.01, place: str = ""
    ) -> None:
        """Add the parameters of the response, with 0 in the row of the padding."""
        super().start_response(conditioning, gate_scale, place)
        if self.padding_idx is not None:
            with torch.no_grad():
                self.response("weight")[self.padding_idx] = 0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Return the vectors of all tokens."""
        # an export would take len() for a constant
        h = self.seen(input.shape[0] if input.dim() else 1)
        if not input.dim():
            h = h.reshape(-1)
        y, response = self._rows(input, self.weight), self._rows(input, self.response("weight"))
        gate = self.gate("weight", h).to(y.dtype)
        if h.dim() == 2:
            gate = gate.view(len(gate), *[1] * (input.dim() - 1), self.embedding_dim)
        return torch.addcmul(y, gate, response)

    def _rows(self, tokens: Tensor, table: Any) -> Tensor:
        # the table is not summed with its response first: it may be much larger than a batch
        return F.embedding(
            tokens,
            table,
            self.padding_idx,
            scale_grad_by_freq=self.scale_grad_by_freq,
            sparse=self.sparse,
        )

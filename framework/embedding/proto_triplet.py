"""A margin between a query's own prototype and the nearest other one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.embedding.prototypes import distances


class ProtoTripletLoss(nn.Module):
    r"""Asks that a query is nearer to its prototype than to any other one, by a margin.

    .. math:: L = \tfrac1{|Q|} \sum_q [d(q, c_y) - \min_{n \ne y} d(q, c_n) + m]_+,
              \quad d(u, v) = \sqrt{\|u - v\|^2 + 10^{-6}}

    It scales with distances, and the margin does not.

    Shapes: queries (..., Q, d), labels (..., Q) int64 in 0..N-1, prototypes (..., N, d), N >= 2;
    returns one value per episode, (...), of one episode a scalar.

    Paper: Mendez-Ruiz et al., SuSana Distancia is all you need, 2023, arXiv:2305.09062.

    Args:
        margin: Margin m, in the unit of distances.

    Raises:
        ValueError: There are fewer than two prototypes, or labels that have none.

    Example:
        >>> import torch
        >>> prototypes = torch.tensor([[0.0, 0.5], [1.5, 1.0], [0.0, 2.0]])
        >>> queries = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
        >>> loss = ProtoTripletLoss(margin=0.5)(queries, torch.arange(3), prototypes)
        >>> round(float(loss), 4)
        0.7368
    """

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, query: Tensor, label: Tensor, prototypes: Tensor) -> Tensor:
        """Return the mean over the queries of every episode."""
        if prototypes.shape[-2] < 2:
            raise ValueError(
                f"A triplet needs two prototypes at least, got {prototypes.shape[-2]}."
            )
        _check_labels(label, prototypes.shape[-2])
        found = distances(query, prototypes)
        own = label[..., None] == torch.arange(prototypes.shape[-2], device=label.device)
        positive = found.masked_fill(~own, 0.0).sum(-1)
        negative = found.masked_fill(own, float("inf")).amin(-1)
        return (positive - negative + self.margin).clamp(min=0).mean(-1)


def _check_labels(label: Tensor, ways: int) -> None:
    """Refuse labels without a prototype; those on a GPU would have to be waited for."""
    if label.device.type != "cpu" or not label.numel() or torch.compiler.is_compiling():
        return
    low, high = (int(value) for value in label.aminmax())
    if low < 0 or high >= ways:
        raise ValueError(
            f"label must lie in 0 to {ways - 1}, as there are {ways} prototypes, got {low} to "
            f"{high}."
        )

"""Margins of a classifier: by how much the right class leads."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = (0.05, 0.5, 0.95)


def logit_margins(logits: Tensor, label: Tensor) -> Tensor:
    """Return the logit of each row's class less the largest of the others, (B,).

    Args:
        logits: Logits (B, C) of at least two classes.
        label: Classes (B,) int64.

    Example:
        >>> logit_margins(torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0]]), torch.tensor([0, 1]))
        tensor([ 2., -3.])
    """
    own = logits.gather(1, label[:, None])[:, 0]
    others = logits.scatter(1, label[:, None], -torch.inf)
    return own - others.amax(1)


def margin_quantiles(margins: Tensor) -> dict[float, Tensor]:
    """Return quantiles of margins (N,) by their share; NaN without any row."""
    if not len(margins):
        return {share: margins.new_tensor(torch.nan) for share in QUANTILES}
    return {share: torch.quantile(margins.float(), share) for share in QUANTILES}

"""Random numbers of symmetric beta distributions, from a fixed number of others."""

from __future__ import annotations

import torch
from torch import Tensor

TRIES = 8
"""Proposals for a number; all are refused with a probability below 1e-10."""


def symmetric_beta(alpha: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
    """Return numbers of Beta(alpha, alpha), one alpha each.

    The ratio of two gamma numbers, each by rejection after Marsaglia and Tsang, 2000. That a number
    uses up as many others whatever its alpha is lets each row draw for itself.

    Args:
        alpha: Positive, (B,).
        normal: Standard normal numbers, (B, 2, ``TRIES``).
        uniform: Numbers in [0, 1), (B, 2, ``TRIES`` + 1).

    Returns:
        (B,), in [0, 1].
    """
    alpha = alpha.clamp(min=torch.finfo(alpha.dtype).tiny ** 0.5)[:, None]
    # of alpha + 1, which is never below 1
    d = (alpha + 2 / 3)[..., None]
    v = (1 + normal / (9 * d).sqrt()) ** 3
    log_v = v.clamp(min=torch.finfo(v.dtype).tiny).log()
    # 1 - u is never 0
    log_u = torch.log1p(-uniform)
    accepted = (v > 0) & (log_u[..., :-1] < normal.square() / 2 + d - d * v + d * log_v)
    first = accepted.to(torch.uint8).argmax(-1, keepdim=True)
    log_gamma = log_v.gather(-1, first).squeeze(-1) + log_u[..., -1] / alpha
    return torch.sigmoid(log_gamma[:, 0] - log_gamma[:, 1])

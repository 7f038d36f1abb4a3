"""Zipf's law for the densities of features, and whole budgets that follow it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least, check_interval

SHIFTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""The shifts β among which ``fit_zipf`` chooses."""

FEWEST_TO_FIT = 3
"""Active features."""


@dataclass(frozen=True)
class ZipfFit:
    """A fitted law ``log density = constant - alpha * log(rank + beta)``.

    Args:
        alpha: Exponent α.
        beta: Shift β.
        r2: Share of the variance of the log densities that the law explains.
    """

    alpha: float
    beta: float
    r2: float


def zipf_density(
    num_features: int, k: float, alpha: float | Tensor = 1.0, beta: float | Tensor = 0.0
) -> Tensor:
    """Return the density that a Zipf-Mandelbrot law expects of every rank.

    The feature of rank r is active on a share ``k q_r`` of the tokens, with
    ``q_r = (r + beta)**-alpha / sum_s (s + beta)**-alpha``, but on no more than all of them: what
    exceeds 1 goes to the other ranks, in proportion.

    Args:
        num_features: Number of features F.
        k: Mean number of active features per token, in (0, F].
        alpha: Exponent, at least 0; 0 is the uniform law. A tensor () stays on its device and is
            not looked at.
        beta: Shift, above -1, given like ``alpha``.

    Returns:
        (F,) float64, decreasing, with sum ``k``, where ``alpha`` is.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> from framework.sparse_coding.zipf import zipf_density
        >>> zipf_density(num_features=3, k=1.1, alpha=1.0)
        tensor([0.6000, 0.3000, 0.2000], dtype=torch.float64)
    """
    if num_features < 1 or not 0 < k <= num_features:
        raise ValueError(f"k must be in (0, {num_features}], the number of features, got {k}.")
    if not isinstance(alpha, Tensor):
        check_at_least(0, alpha=alpha)
    if not isinstance(beta, Tensor):
        check_interval("(-1, inf)", beta=beta)
    device = alpha.device if isinstance(alpha, Tensor) else None
    ranks = torch.arange(1, num_features + 1, dtype=torch.float64, device=device)
    weight = torch.softmax(-alpha * torch.log(ranks + beta), dim=0)
    # densities decrease, so those at 1 are a prefix: the shortest that leaves no other above 1. It
    # is no longer than k; and a cumulative sum of floats has no fixed order on a GPU
    most = min(num_features, int(k) + 1)
    head = weight[:most]
    tail = head.expand(most, most).triu().sum(1) + weight[most:].sum()
    capped = ((k - ranks[:most] + 1) * head <= tail).int().argmax()
    density = (k - capped) * weight / tail.take(capped)
    return density.where(ranks > capped, 1.0).clamp(max=1.0)


def fit_zipf(density: Tensor) -> ZipfFit:
    """Fit a Zipf-Mandelbrot law to the body of measured densities.

    Least squares of log density on ``log(rank + beta)`` over the features above the 20th percentile
    of those that are active at all, for each of ``SHIFTS``; the best R2 wins. The tail is left
    out because it is what lies below the law.

    Args:
        density: (F,) share of tokens on which each feature is active.

    Raises:
        ValueError: fewer than three features are active.

    Example:
        >>> from framework.sparse_coding.zipf import fit_zipf, zipf_density
        >>> fit = fit_zipf(zipf_density(num_features=1000, k=4.0, alpha=1.2, beta=20.0))
        >>> round(fit.alpha, 6), fit.beta, round(fit.r2, 6)
        (1.2, 20.0, 1.0)
    """
    active = int((density > 0).sum())
    if active < FEWEST_TO_FIT:
        raise ValueError(f"A Zipf law needs {FEWEST_TO_FIT} active features to fit, got {active}.")
    return ZipfFit(*(float(value) for value in fit_zipf_tensors(density)))


def fit_zipf_tensors(density: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return alpha, beta and R2 of ``fit_zipf`` as float64 scalars where ``density`` is.

    Nothing is looked at, so that no GPU waits; where fewer than three features are active the
    values mean nothing.
    """
    measured = density.detach().double().sort(descending=True).values
    active = (measured > 0).sum()
    ranks = torch.arange(1, len(measured) + 1, dtype=torch.float64, device=density.device)
    body = (ranks <= active - active // 5).double()
    share = body / body.sum()
    shifts = _shifts(density.device)
    x = torch.log(ranks + shifts[:, None])
    y = measured.where(body > 0, 1.0).log()
    x = (x - (x @ share)[:, None]) * body
    y = (y - y @ share) * body
    slope = (x @ y) / x.square().sum(1)
    total = y @ y
    left = (y - slope[:, None] * x).square().sum(1)
    r2 = torch.where(total > 0, 1 - left / total, 0.0)
    best = r2.argmax()
    # take does not look at the index, as [] does
    return (-slope.take(best)).clamp(min=0), shifts.take(best), r2.take(best)


@lru_cache
@torch.inference_mode(mode=False)
def _shifts(device: torch.device) -> Tensor:
    # once, as the copy is waited for
    return torch.tensor(SHIFTS, dtype=torch.float64, device=device)


def integer_budgets(budgets: Tensor, total: int, most: int) -> Tensor:
    """Round real budgets to whole ones of at least 1 and at most ``most``, with a given sum.

    The largest-remainder method: each is rounded down, but not below 1; then the largest remainders
    get one more each, or, if the minimum of 1 took too much, those that are most above their real
    budget one less, until the sum is right. Of equal remainders the earlier one is served.

    Args:
        budgets: (F,) real numbers in 0..most, with sum ``total``.
        total: Sum K of the result, in F..F * most.
        most: Largest budget, the rows of the batch.

    Returns:
        (F,) int64.

    Raises:
        ValueError: ``total`` cannot be reached.

    Example:
        >>> from framework.sparse_coding.zipf import integer_budgets, zipf_density
        >>> integer_budgets(4 * zipf_density(num_features=8, k=8.0, alpha=1.0), total=32, most=4)
        tensor([4, 4, 4, 4, 4, 4, 4, 4])
        >>> integer_budgets(40 * zipf_density(num_features=8, k=0.8, alpha=1.0), total=32, most=40)
        tensor([12,  6,  4,  3,  2,  2,  2,  1])
    """
    if not len(budgets) <= total <= len(budgets) * most:
        raise ValueError(
            f"Budgets of 1 to {most} for {len(budgets)} features cannot add up to {total}."
        )
    real = budgets.detach().double().cpu()
    whole = real.floor().long().clamp(1, most)
    while missing := total - int(whole.sum()):
        step = 1 if missing > 0 else -1
        movable = whole < most if step > 0 else whole > 1
        # how far it lies below its real budget, or above it
        claim = torch.where(movable, step * (real - whole), -torch.inf)
        first = claim.sort(descending=True, stable=True).indices
        whole[first[: min(abs(missing), int(movable.sum()))]] += step
    return whole

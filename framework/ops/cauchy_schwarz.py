"""Cauchy-Schwarz divergence and mutual information of a batch, estimated with Gaussian kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from framework.ops.kernels import gaussian_gram, log_gaussian_gram, median_heuristic

Width = float | Literal["median", "median/8"] | None
"""A kernel's width: a number, the median distance in the batch, an eighth of it, or None for √d."""
Denominator = Literal["square_of_sum", "sum_of_squares"]
EPSILON = 1e-12
"""Under the root of the normalized information: a collapsed t then has 0 instead of 0 / 0."""


def conditional_cs_divergence(
    x: Tensor,
    y: Tensor,
    y_hat: Tensor,
    sigma_x: Width = "median/8",
    sigma_y: Width = 1.0,
    denominator: Denominator | None = None,
    chunk_size: int = 4096,
) -> Tensor:
    """Return the divergence of p(y|x) and q(ŷ|x), a scalar.

    See ``ConditionalCSDivergenceLoss`` for the equations and the arguments.

    Args:
        x: (N, d) with N above 0.
        y: (N, T).
        y_hat: (N, T).
        sigma_x: Width of the kernel on x.
        sigma_y: Width of the kernel on y and ŷ; ``'median'`` is that of y.
        denominator: Denominator of the paper's form; None for the exact divergence.
        chunk_size: Number of rows computed at a time.
    """
    width_x, width_y = kernel_width(sigma_x, x), kernel_width(sigma_y, y)
    if denominator is None:
        value = _exact_divergence(x, y, y_hat, width_x, width_y, chunk_size)
    else:
        value = _divergence_at_samples(x, y, y_hat, width_x, width_y, denominator, chunk_size)
    return value.to(y_hat.dtype)


def _exact_divergence(
    x: Tensor,
    y: Tensor,
    y_hat: Tensor,
    width_x: float | Tensor,
    width_y: float | Tensor,
    chunk_size: int,
) -> Tensor:
    # the integral of a product of two Gaussians of width s is one of width √2 s
    width = math.sqrt(2) * width_y
    starts = range(0, len(x), chunk_size)

    def overlap(rows: slice) -> Tensor:
        """Return the rows of WᵀW, W the kernel on x with rows that sum to 1."""
        total = x.new_zeros(())
        for start in starts:
            w = log_gaussian_gram(x[start : start + chunk_size], x, width_x).softmax(1)
            total = total + w[:, rows].T @ w
        return total

    def row_sums(rows: slice) -> Tensor:
        g = overlap(rows)
        # only the cross term can underflow: the others hold the kernel of a row with itself
        log_g = g.clamp_min(torch.finfo(g.dtype).tiny).log()
        cross = (log_g + log_gaussian_gram(y_hat[rows], y, width)).logsumexp(1)
        true = (g * gaussian_gram(y[rows], y, width)).sum(1)
        predicted = (g * gaussian_gram(y_hat[rows], y_hat, width)).sum(1)
        return torch.stack([true, predicted, cross])

    true, predicted, cross = _in_blocks(row_sums, len(x), chunk_size)
    value = true.sum().log() + predicted.sum().log() - 2 * cross.logsumexp(0)
    return value.clamp_min(0)  # what lies below is rounding


def _divergence_at_samples(
    x: Tensor,
    y: Tensor,
    y_hat: Tensor,
    width_x: float | Tensor,
    width_y: float | Tensor,
    denominator: Denominator,
    chunk_size: int,
) -> Tensor:
    def row_sums(rows: slice) -> Tensor:
        log_k = log_gaussian_gram(x[rows], x, width_x)
        k = log_k.exp()
        # only the cross term can underflow: the others hold the kernel of a row with itself
        cross = (log_k + log_gaussian_gram(y_hat[rows], y, width_y)).logsumexp(1)
        true = (k * gaussian_gram(y[rows], y, width_y)).sum(1)
        predicted = (k * gaussian_gram(y_hat[rows], y_hat, width_y)).sum(1)
        density = (k.square() if denominator == "sum_of_squares" else k).sum(1)
        return torch.stack([density, true, predicted, cross])

    density, true, predicted, cross = _in_blocks(row_sums, len(x), chunk_size)
    log_w = -density.log() if denominator == "sum_of_squares" else -2 * density.log()
    w = log_w.exp()
    return (w * true).sum().log() + (w * predicted).sum().log() - 2 * (log_w + cross).logsumexp(0)


def cs_mutual_information(
    x: Tensor,
    t: Tensor,
    sigma_x: Width = 1.0,
    sigma_t: Width = 1.0,
    normalized: bool = True,
    chunk_size: int = 4096,
) -> Tensor:
    """Return the quadratic mutual information of x and t, a scalar.

    See ``CSQMI`` for the equation.

    Args:
        x: (N, d) with N above 0.
        t: (N, h).
        sigma_x: Width of the kernel on x.
        sigma_t: Width of the kernel on t.
        normalized: Whether to divide by the root of I(x; x) I(t; t).
        chunk_size: Number of rows computed at a time.
    """
    width_x, width_t = kernel_width(sigma_x, x), kernel_width(sigma_t, t)

    def row_sums(rows: slice) -> Tensor:
        k = gaussian_gram(x[rows], x, width_x)
        # Q - 1, which keeps its digits where all t are nearly equal and every Q is nearly 1
        q = log_gaussian_gram(t[rows], t, width_t).expm1()
        return torch.stack([v.sum(1) for v in (k, k.square(), q, q.square(), k * q)])

    k, kk, q, qq, kq = _in_blocks(row_sums, len(x), chunk_size)
    value = _information(kq, k, q)
    if normalized:
        of_x = _information(kk - k, k, k - len(x))
        of_t = _information(qq + q, q + len(x), q)
        value = value / ((of_x * of_t).clamp_min(0) + EPSILON).sqrt()
    return value.to(t.dtype)


def _information(product: Tensor, k: Tensor, q: Tensor) -> Tensor:
    """Return I from the row sums of K ∘ (Q - 1), of K and of Q - 1; all powers of N cancel."""
    rows, total = len(k), k.sum()
    joint, marginal, cross = product.sum(), q.sum(), (k * q).sum()
    return (
        (joint / total).log1p()
        + (marginal / rows**2).log1p()
        - 2 * (cross / (rows * total)).log1p()
    )


def _in_blocks(row_sums: Callable[[slice], Tensor], rows: int, chunk_size: int) -> Tensor:
    """Return the sums of all rows, (S, N), at most ``chunk_size`` rows at a time.

    In float64: what follows is O(N) and takes differences of numbers that are nearly equal.
    """
    if rows <= chunk_size:
        return row_sums(slice(0, rows)).double()
    # each block is computed again in backward, so that no N x N matrix is ever held
    blocks = [
        checkpoint(
            row_sums,
            slice(start, start + chunk_size),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, rows, chunk_size)
    ]
    return torch.cat(blocks, dim=1).double()


def kernel_width(sigma: Width, values: Tensor) -> float | Tensor:
    """Return the width of the kernel on the rows of ``values``, (N, d)."""
    if sigma is None:
        return math.sqrt(values.shape[1])
    if sigma == "median":
        return median_heuristic(values)
    return median_heuristic(values) / 8 if sigma == "median/8" else sigma

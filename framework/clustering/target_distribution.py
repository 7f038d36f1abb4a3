"""Targets of deep clustering: what soft assignments should become."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from framework.utilities.checks import check_one_of
from framework.utilities.precision import at_least_float32

TargetKind = Literal["sqrt", "square", "exact"]
SMALLEST_FREQUENCY = 1e-8
EXACT_ITERATIONS = 200


def dec_target_distribution(
    p: Tensor, kind: TargetKind = "sqrt", freq: Tensor | None = None
) -> Tensor:
    r"""Return the target assignments q of soft assignments p.

    ========== ========================================== ============================
    kind       q before its rows are normalized           effect
    ========== ========================================== ============================
    ``sqrt``   :math:`p_{ik} / \sqrt{f_k}`                balances clusters
    ``square`` :math:`p_{ik}^2 / f_k`                     balances and sharpens
    ``exact``  :math:`p_{ik} / \bar q_k`,                 balances
               :math:`\bar q_k` the mean of q itself
    ========== ========================================== ============================

    with :math:`f_k = \sum_i p_{ik}`. ``exact`` is the minimizer over q of the mean over rows of
    :math:`\mathrm{KL}(q_i \| p_i)` plus :math:`\mathrm{KL}(\bar q \| u)`, u uniform, of which
    ``sqrt`` is the closed approximation. A row of zeros stays one and counts for nothing. Computed
    in float32 at least.

    Paper: ``sqrt`` is that of Ghasedi Dizaji et al., *Deep Clustering via Joint Convolutional
    Autoencoder Embedding and Relative Entropy Minimization* (DEPICT), ICCV 2017, arXiv:1704.06327;
    ``square`` is that of Xie et al., *Unsupervised Deep Embedding for Clustering Analysis* (DEC),
    ICML 2016, arXiv:1511.06335, which DEPICT's released code runs.

    Args:
        p: (N, K), non-negative; rows sum to 1.
        kind: Name of the target distribution, see above.
        freq: (K,) frequencies f, where p is only a part of all samples; default the sum of p.

    Returns:
        (N, K), on the device of ``p``.

    Raises:
        ValueError: another shape, an unknown ``kind``, or ``freq`` with ``exact``.

    Example:
        >>> import torch
        >>> from framework.clustering.target_distribution import dec_target_distribution
        >>> dec_target_distribution(torch.tensor([[0.8, 0.2], [0.6, 0.4]]), "square")
        tensor([[0.8727, 0.1273],
                [0.4909, 0.5091]])
    """
    if p.ndim != 2:
        raise ValueError(f"p must be (N, K), got {tuple(p.shape)}.")
    check_one_of(get_args(TargetKind), kind=kind)
    if freq is not None and (kind == "exact" or freq.shape != p.shape[1:]):
        raise ValueError(
            f"freq must be ({p.shape[1]},) and belongs to 'sqrt' and 'square', got "
            f"{tuple(freq.shape)} with {kind!r}."
        )
    p = at_least_float32(p)
    if kind == "exact":
        return _normalized(p / _balanced_frequency(p))
    f = (p.sum(0) if freq is None else freq.to(p.dtype)).clamp(min=SMALLEST_FREQUENCY)
    return _normalized(p / f.sqrt() if kind == "sqrt" else p.square() / f)


def unseen_target_distribution(p: Tensor, known: Tensor, kind: TargetKind = "sqrt") -> Tensor:
    """Return the targets of samples that were not among those whose clusters are balanced.

    They are what ``dec_target_distribution`` would give a known sample with the same
    assignments, as the frequencies of the clusters are those of the known samples.

    Args:
        p: (B, K) assignments of the samples.
        known: (N, K) assignments of the known samples; with ``exact`` their targets.
        kind: Name of the target distribution, as in ``dec_target_distribution``.

    Returns:
        (B, K).
    """
    if kind != "exact":
        return dec_target_distribution(p, kind, known.sum(0))
    return _normalized(p / known.mean(0).clamp(min=SMALLEST_FREQUENCY))


def _normalized(q: Tensor) -> Tensor:
    return q / q.sum(1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)


def _balanced_frequency(p: Tensor) -> Tensor:
    """Return f, up to a factor, with f = sum of the rows of p / f after normalization."""
    f = p.sum(0, dtype=torch.float64).clamp(min=SMALLEST_FREQUENCY)
    tolerance = 4 * torch.finfo(p.dtype).eps
    for _ in range(EXACT_ITERATIONS):
        mean = _normalized(p / f.to(p.dtype)).sum(0, dtype=torch.float64)
        # halfway on a logarithmic scale: the plain iteration goes to and fro for ever where the
        # rows are equal
        new = (f * mean.clamp(min=SMALLEST_FREQUENCY)).sqrt()
        change = (new / f).log().abs().max()
        f = new
        if change < tolerance:
            break
    return f.to(p.dtype)

"""Contrast of anchors with their negatives, each anchor at a temperature of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.distributed.log_average import log_moving_average


class AnchorTerms(NamedTuple):
    """What A anchors found among their negatives.

    Args:
        loss: Surrogate of each anchor (A,), whose gradient is that of the objective; its value is
            the mean of the negatives' weighted similarity over the positive's.
        log_average: Logarithm of each anchor's average s, with this batch in it (A,).
        slope: Derivative G of each anchor's objective by its temperature (A,).
        compared: Whether the anchor has a negative (A,) bool; the loss and the slope of the others
            are 0, and their average is the old one.
    """

    loss: Tensor
    log_average: Tensor
    slope: Tensor
    compared: Tensor


def individual_contrast(
    similarity: Tensor,
    positive: Tensor,
    negatives: Tensor,
    temperature: Tensor,
    log_average: Tensor,
    gamma: float = 1.0,
    rho: float = 0.3,
    center_positive: bool = True,
) -> AnchorTerms:
    r"""Return the robust contrast of every anchor, for one step of compositional optimization.

    With :math:`h_{ij}` the similarity of anchor i and negative j less that of its positive, and m
    negatives, the objective of an anchor is :math:`\tau_i \log \frac1m \sum_j e^{h_{ij} / \tau_i} +
    \tau_i \rho`. The mean inside the logarithm is replaced by its moving average s over steps, kept
    as log s, which no temperature makes overflow:

    .. math:: s_i \gets (1 - \gamma) s_i + \gamma \tfrac1m \sum_j e^{h_{ij} / \tau_i}, \quad
              \ell_i = \tfrac1m \sum_j \tfrac{e^{h_{ij} / \tau_i}}{s_i} h_{ij}, \quad
              G_i = \log s_i + \rho - \tfrac1m \sum_j \tfrac{e^{h_{ij} / \tau_i}}{s_i}
              \tfrac{h_{ij}}{\tau_i}

    where the fraction in ℓ is constant. At gamma = 1 the gradient of ℓ and G are the derivatives of
    the objective, exactly.

    Paper: Qiu et al., *Not All Semantics are Created Equal*, ICML 2023, arXiv:2305.11965.

    Args:
        similarity: Similarity of anchors and candidates (A, M), with gradient.
        positive: Similarity of each anchor to its positive (A,), with gradient.
        negatives: Which candidates are negatives of an anchor (A, M) bool.
        temperature: Temperature of each anchor (A,).
        log_average: Logarithm of the average s so far (A,); NaN for none.
        gamma: Share of this batch in the average.
        rho: Radius of the divergence within which the negatives are weighted.
        center_positive: Whether h is as above; otherwise, as in the authors' code for images, it is
            the similarity, and the positive's is subtracted from the surrogate.

    Example:
        >>> import torch
        >>> h = torch.tensor([[0.5, 0.2, -0.1, -0.4]])
        >>> terms = individual_contrast(
        ...     h,
        ...     positive=torch.zeros(1),
        ...     negatives=torch.ones(1, 4, dtype=torch.bool),
        ...     temperature=torch.tensor([0.5]),
        ...     log_average=torch.tensor([1.2]).log(),
        ...     gamma=0.8,
        ... )
        >>> terms.log_average.exp(), terms.slope
        (tensor([1.3356]), tensor([0.0668]))
    """
    centered = similarity - positive[:, None]
    with torch.no_grad():
        count = negatives.sum(1)
        compared = count > 0
        divisor = count.clamp(min=1).to(similarity.dtype)
        inner = (centered if center_positive else similarity) / temperature[:, None]
        scaled = inner.masked_fill(~negatives, -torch.inf)
        log_mean = scaled.logsumexp(1) - divisor.log()
        average = log_moving_average(log_average, log_mean, gamma)
        average = torch.where(compared, average, log_average)
        weights = (scaled - average[:, None]).exp() / divisor[:, None]
        # without a negative there is no average, and NaN times 0 would be NaN
        weights = weights.masked_fill(~negatives, 0)
        slope = average + rho - (weights * inner).sum(1)
        slope = torch.where(compared, slope, 0)
    loss = (weights * (centered if center_positive else similarity)).sum(1)
    if not center_positive:
        # of weights that add up to 1, at gamma = 1 and a first visit, the same
        loss = loss - torch.where(compared, positive, 0)
    return AnchorTerms(loss, average, slope, compared)


def temperature_step(
    temperature: Tensor,
    momentum: Tensor,
    slope: Tensor,
    eta: float,
    beta: float,
    clip: float | None,
    bounds: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Return temperatures after one step against their slope, and their momentum.

    Args:
        temperature: Temperatures (A,).
        momentum: Moving average of the slopes so far (A,).
        slope: Slopes of this step (A,).
        eta: Length of the step.
        beta: Share of this slope in the momentum.
        clip: Largest size of a slope; None for any.
        bounds: Smallest and largest temperature.

    Example:
        >>> import torch
        >>> tau, u = torch.tensor([0.5]), torch.tensor([0.0])
        >>> temperature_step(tau, u, torch.tensor([0.066844]), 0.03, 0.5, 3.0, (0.05, 1.0))
        (tensor([0.4990]), tensor([0.0334]))
    """
    if clip is not None:
        slope = slope.clamp(-clip, clip)
    momentum = (1 - beta) * momentum + beta * slope
    return (temperature - eta * momentum).clamp(*bounds), momentum

"""Class probabilities corrected by what else is known of a row."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from framework.utilities.precision import at_least_float32


def bayes_refine(logits: Tensor, log_likelihood: Tensor) -> Tensor:
    r"""Return the logarithm of p q, normalized over classes: Bayes' rule.

    .. math:: \rho_k = \frac{q_k p_k}{\sum_j q_j p_j}

    In domain adaptation q_k is the probability that a row belongs to the target domain, given that
    its class is k. A q that is the same for all classes changes nothing. Computed in float32 at
    least, from logarithms, so that neither small probabilities nor half precision give NaN.

    Differentiable in both arguments. The paper's gradient reaches the classifier through p alone:
    detach ``log_likelihood``, and compute it of detached features.

    Paper: Lv et al., *Pareto Domain Adaptation*, NeurIPS 2021, arXiv:2112.04137. Its code instead
    multiplies the logits by q and takes the softmax again; the paper is followed.

    Args:
        logits: (B, K), or log-probabilities; p is their softmax.
        log_likelihood: (B, K) log q, finite; of a discriminator ``F.logsigmoid(its logits)``.

    Returns:
        (B, K) log-probabilities, which a loss on logits takes as they are.

    Raises:
        ValueError: the shapes differ or are not (B, K).

    Example:
        >>> import torch
        >>> from framework.adaptation.bayes_refinement import bayes_refine
        >>> p, q = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.9, 0.5, 0.2]])
        >>> bayes_refine(p.log(), q.log()).exp()
        tensor([[0.8400, 0.1333, 0.0267]])
    """
    if logits.ndim != 2 or logits.shape != log_likelihood.shape:
        raise ValueError(
            f"bayes_refine takes logits and log_likelihood of one shape (B, K), got "
            f"{tuple(logits.shape)} and {tuple(log_likelihood.shape)}."
        )
    return F.log_softmax(at_least_float32(logits) + at_least_float32(log_likelihood), dim=1)

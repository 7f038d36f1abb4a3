"""Domain discriminators of every class, trained with soft labels where there are none."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import global_mean
from framework.utilities.precision import at_least_float32

SOURCE, TARGET = 0, 1
"""Values of ``domain``."""


def class_discriminator_loss(
    logits: Tensor, label: Tensor, domain: Tensor, refined: Tensor
) -> Tensor:
    r"""Return the loss of K discriminators, each of which tells source from target in its class.

    With :math:`q_k`, the sigmoid of logit k, the probability that a row of class k is of the
    target,

    .. math:: L_V = -\frac1{B_s} \sum_{i \in S} \log(1 - q_{y_i}(x_i))
                    - \frac1{B_t} \sum_{i \in T} \sum_k \rho_k(x_i) \log q_k(x_i)

    A source row so trains the discriminator of its label, and a target row all of them, by the
    probabilities ρ of its class. Computed in float32 at least.

    Paper: Lv et al., *Pareto Domain Adaptation*, NeurIPS 2021, arXiv:2112.04137. Its code differs:
    it masks the source rows by the label of the last one, weighs target rows by logits times q,
    which may be negative, and divides by 2 K. The paper is followed; the last is a matter of the
    learning rate.

    Args:
        logits: (B, K), on detached features where only the discriminators are to be trained.
        label: (B,) int64, looked at in source rows only, where -1 (unknown) drops the row.
        domain: (B,) int64, 0 = source, 1 = target.
        refined: (B, K) log ρ, as ``bayes_refine`` returns, looked at in target rows only, and
            without gradient.

    Returns:
        A scalar. Its average over ranks, and that of its gradient, is the loss of the global batch,
        however uneven the ranks are; a domain without rows gives 0 with a gradient path.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> import torch
        >>> from framework.adaptation.class_discriminators import class_discriminator_loss
        >>> logits = torch.tensor([[0.0, -3.0], [3.0, 0.0]])
        >>> label, domain = torch.tensor([1, -1]), torch.tensor([0, 1])
        >>> refined = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
        >>> class_discriminator_loss(logits, label, domain, refined)
        tensor(0.1616)
    """
    rows = logits.shape[:1]
    if (
        logits.ndim != 2
        or refined.shape != logits.shape
        or label.shape != rows
        or domain.shape != rows
    ):
        raise ValueError(
            "class_discriminator_loss takes logits and refined (B, K), label and domain (B,), got "
            + ", ".join(str(tuple(x.shape)) for x in (logits, refined, label, domain))
            + "."
        )
    logits = at_least_float32(logits)
    rho = at_least_float32(refined.detach()).exp()
    # -log(1 - q) of the label, and the mean of -log q
    source = F.softplus(logits).gather(1, label.clamp(min=0)[:, None]).squeeze(1)
    target = (rho * F.softplus(-logits)).sum(1)
    return global_mean(source, (domain == SOURCE) & (label >= 0)) + global_mean(
        target, domain == TARGET
    )

"""How much of a language model's loss a reconstruction inside it keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

RUNS = ("clean", "sae", "zero", "mean")


class LossRecovered(Metric):
    """The language model's cross-entropy with its activations replaced, and what that recovers.

    ``compute`` returns, in nats per predicted token,

    * ``ce_clean``, of the model as it is; ``ce_sae``, with reconstructions in the place of the
      activations; ``ce_zero``, with zeros; ``ce_mean``, with their mean;
    * ``delta_ce``, ``ce_sae - ce_clean``;
    * ``loss_recovered``, ``(ce_zero - ce_sae) / (ce_zero - ce_clean)``: 1 is as good as the
      activations, 0 as bad as zeros. Zeros are so bad that it is near 1 for most reconstructions,
      so look at ``delta_ce`` as well;
    * ``loss_recovered_mean``, the same against the mean.

    From sums in float64 over all batches and ranks, which may have no tokens.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.loss_recovered import LossRecovered
        >>> metric = LossRecovered()
        >>> metric.update(clean=torch.tensor([3.0]), sae=torch.tensor([3.5]),
        ...               zero=torch.tensor([8.0]), mean=torch.tensor([7.0]))
        >>> values = metric.compute()
        >>> values["delta_ce"], values["loss_recovered"], values["loss_recovered_mean"]
        (tensor(0.5000), tensor(0.9000), tensor(0.8750))
    """

    full_state_update = False
    losses: Tensor
    tokens: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        sums = torch.zeros(len(RUNS), dtype=torch.float64)
        self.add_state("losses", sums, dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, clean: Tensor, sae: Tensor, zero: Tensor, mean: Tensor) -> None:
        """Add the cross-entropies of the same tokens in the four runs.

        Args:
            clean: (n,) losses without replacement.
            sae: (n,) losses with reconstructions.
            zero: (n,) losses with zeros.
            mean: (n,) losses with the mean.
        """
        self.losses += torch.stack([clean, sae, zero, mean]).sum(1, dtype=torch.float64)
        self.tokens += len(clean)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, NaN without any token."""
        clean, sae, zero, mean = self.losses / self.tokens
        values = {
            "ce_clean": clean,
            "ce_sae": sae,
            "ce_zero": zero,
            "ce_mean": mean,
            "delta_ce": sae - clean,
            "loss_recovered": (zero - sae) / (zero - clean),
            "loss_recovered_mean": (mean - sae) / (mean - clean),
        }
        return {name: value.float() for name, value in values.items()}

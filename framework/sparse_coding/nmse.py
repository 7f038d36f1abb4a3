"""Two squared errors without a mean taken off, which peers both call normalized."""

from __future__ import annotations

from torch import Tensor

from framework.sparse_coding.per_token import MeanOverTokens, RatioOfSums


class NMSERatio(RatioOfSums):
    """Squared error over squared size, ``sum |x - r|^2 / sum |x|^2``, called ``nmse_ratio``.

    1 is what nothing but zeros would reach. From sums in float64 over all batches and ranks, which
    may have no rows.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.sparse_coding.nmse import NMSERatio
        >>> metric = NMSERatio()
        >>> found, x = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[1.0, 1.0], [3, 1]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(0.1667)
    """

    higher_is_better = False

    def parts(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared error and squared size."""
        return (target - reconstruction).square(), target.square()


class NMSEOpenAI(MeanOverTokens):
    """Mean over tokens of each token's own ``|x - r|^2 / |x|^2``, called ``nmse_openai``.

    As in the code of arXiv:2406.04093. Small tokens count as much as large ones, which is what
    differs from ``NMSERatio``.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.sparse_coding.nmse import NMSEOpenAI
        >>> metric = NMSEOpenAI()
        >>> found, x = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[1.0, 1.0], [3, 1]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(0.3000)
    """

    higher_is_better = False

    def per_token(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Return the ratio of every row, (B,)."""
        return (target - reconstruction).square().sum(1) / target.square().sum(1)

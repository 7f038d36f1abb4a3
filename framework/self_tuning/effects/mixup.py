"""Mixup of a tuned strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from framework.distributed.collectives import gather
from framework.objectives.objectives import Objectives
from framework.self_tuning.draws import Draws
from framework.self_tuning.effects.beta_draws import TRIES, symmetric_beta
from framework.self_tuning.effects.input_effect import InputEffect
from framework.self_tuning.effects.soft_labels import (
    add_correction,
    counted,
    cross_entropy,
    labels_of,
)
from framework.self_tuning.hyperparameter import HyperParameter

ALPHA = HyperParameter(init=0.1, low=0.0)
"""Range of the strength."""


class TunedMixup(InputEffect):
    r"""Mixes each input with another one of the global batch, and the loss accordingly.

    A row i becomes :math:`m x_i + (1 - m) x_j` with m or 1 - m, whichever is larger, drawn from
    Beta(alpha, alpha), alpha being that of the row. Adds the term ``mixup``,
    :math:`(1 - m)(\ell(y_j) - \ell(y_i))` with the cross-entropy :math:`\ell` of the prediction:
    beside a plain cross-entropy of weight 1 the sum is that of mixed labels, exactly.

    Where one of the two labels is -100, the label stays that of row i. All ranks' inputs are
    gathered, as a partner may be anywhere.

    Shapes: the input (B, ...); predictions (B, K), logits; targets (B,) int64 or (B, K).

    Paper: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018, arXiv:1710.09412,
    whose code draws one m for the whole batch, and m itself rather than the larger share; tuned as
    by MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088, where it is not among the
    examples.

    Args:
        field: Field of a batch that is mixed.
        name: Prefix of the hyperparameter's name, ``NAME.alpha``, and name of the term.
        alpha: Strength, at least 0, where nothing is mixed; 1 draws m evenly.

    Raises:
        ValueError: The range goes below 0; in a step, predictions or targets of other shapes.

    Example:
        >>> import torch
        >>> from framework.self_tuning import Draws, TunedMixup
        >>> mixup = TunedMixup(field="input")
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> with mixup.at({"alpha": torch.tensor([1e-6, 1.0, 1.0])}, Draws(seed=0, step=0)):
        ...     mixed = mixup.change_batch({"input": x})["input"]
        >>> (mixed == x).flatten()
        tensor([ True, False, False])
    """

    needs: ClassVar[tuple[str, ...]] = ("predictions", "targets")

    def __init__(
        self, field: str = "image", name: str = "mixup", alpha: HyperParameter = ALPHA
    ) -> None:
        super().__init__(field, name, {"alpha": alpha.within(f"{name}.alpha", ALPHA, low=0)})
        self._mixed: tuple[Tensor, Tensor] | None = None

    def changed(self, x: Tensor, draws: Draws) -> Tensor:
        """Return ``x`` mixed."""
        rows, stream = len(x), self.stream(self.field)
        alpha = self.value_of("alpha", x).expand(rows, *[1] * (x.ndim - 1)).reshape(rows)
        normal = draws.normal(f"{stream}.normal", rows, 2, TRIES, device=x.device)
        uniform = draws.uniform(f"{stream}.uniform", rows, 2, TRIES + 1, device=x.device)
        share = symmetric_beta(alpha, normal, uniform)
        share = torch.maximum(share, 1 - share)
        partners = draws.partners(f"{stream}.partners", rows, device=x.device)
        counts = draws.rows_per_rank(rows, x.device)
        self._mixed = share, partners
        weight = share.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        return torch.lerp(gather(x, counts)[partners], x, weight)

    def change_objectives(
        self, objectives: Objectives, batch: Mapping[str, Any], model: nn.Module
    ) -> None:
        """Add the term."""
        if self.active is None or self.draws is None or self._mixed is None:
            return
        (share, partners), self._mixed = self._mixed, None
        log_p, labels = labels_of(objectives, self.name)
        others = gather(labels, self.draws.rows_per_rank(len(labels)))[partners]
        correction = (1 - share) * (cross_entropy(log_p, others) - cross_entropy(log_p, labels))
        counts = counted(labels) & counted(others)
        add_correction(objectives, self.name, correction, labels, counts)

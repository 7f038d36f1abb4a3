"""Accuracy on classes that were trained and on classes that were added later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class NovelClassAccuracy(Metric):
    """How well samples of base and of novel classes are told apart, in the usual scenarios.

    ``compute`` returns, of those that have a sample: ``disjoint``, novel samples among the novel
    classes alone; ``joint``, all samples among all classes; ``joint_on_base`` and
    ``joint_on_novel``, the same of samples of either kind, as base classes draw samples of novel
    ones to themselves; and ``harmonic_mean`` of these two. It counts samples, so that batches and
    ranks do not matter.

    Args:
        num_base: Number of base classes, which come first.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_base`` below 1.

    Example:
        >>> metric = NovelClassAccuracy(num_base=1)
        >>> metric.update(torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.7, 0.1]]), torch.tensor([0, 1]))
        >>> {name: value.item() for name, value in metric.compute().items()}["joint"]
        0.5
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    counts: Tensor

    def __init__(self, num_base: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_base=num_base)
        self.num_base = num_base
        # right and all: novel ones among novel classes, then base and novel ones among all
        self.add_state("counts", torch.zeros(3, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, label: Tensor) -> None:
        """Add a batch of B samples.

        Args:
            scores: Cosines or logits of all classes, (B, C), base classes first.
            label: Class of each sample, (B,) int64.
        """
        novel = label >= self.num_base
        joint = scores.argmax(1) == label
        disjoint = scores[:, self.num_base :].argmax(1) + self.num_base == label
        rows = [(disjoint, novel), (joint, ~novel), (joint, novel)]
        self.counts += torch.stack(
            [torch.stack([(right & kind).sum(), kind.sum()]) for right, kind in rows]
        )

    def compute(self) -> dict[str, Tensor]:
        """Return the shares by name."""
        right, number = self.counts.unbind(1)
        accuracy = right / number.clamp(min=1)
        has_base, has_novel = (number[1:] > 0).tolist()
        values: dict[str, Tensor] = {}
        if has_novel:
            values |= {"disjoint": accuracy[0], "joint_on_novel": accuracy[2]}
        if has_base:
            values["joint_on_base"] = accuracy[1]
        if has_base or has_novel:
            values["joint"] = right[1:].sum() / number[1:].sum()
        if has_base and has_novel:
            base, other = accuracy[1:]
            values["harmonic_mean"] = 2 * base * other / (base + other).clamp(min=1e-12)
        return values

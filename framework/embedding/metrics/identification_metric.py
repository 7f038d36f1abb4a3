"""Identification of persons whose images are embedded a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from framework.embedding.metrics.identification import (
    check_ranks,
    identify,
    identify_among_distractors,
    verify_against_distractors,
)
from framework.embedding.metrics.pair_scores import measurable, summary_values, tar_values
from framework.embedding.metrics.roc import checked_rates
from framework.embedding.metrics.row_order import first_of_each
from framework.metrics.row_metric import RowMetric
from framework.utilities.checks import check_at_least, check_one_of


class Identification(RowMetric):
    """How often a person is found at a rank of at most k, among distractors or in a gallery.

    With ``"distractors"``, as of MegaFace, ``compute`` returns ``rank@k`` of
    ``identify_among_distractors``, and ``tar@far=1e-6`` and ``curves`` of the same scores. With
    ``"gallery"`` it returns ``rank@k`` of probes whose person is in the gallery, and, where others
    are not, ``fnir@fpir=1e-2``, the share that is lost where as many of the others are taken for
    someone. An image that comes twice counts once, so that batches and ranks do not matter, and
    rates that cannot be measured have no value.

    Args:
        embedding_dim: Width d of an embedding.
        protocol: What the images that are no probes are.
        ks: Ranks k.
        rates: False acceptance rates, or false positive identification rates of the gallery.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``embedding_dim`` or a rank below 1, another protocol, or a rate outside of
            [0, 1].

    Example:
        >>> metric = Identification(embedding_dim=2)
        >>> images = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> label, is_probe = torch.tensor([0, 0, -1]), torch.tensor([True, True, False])
        >>> metric.update(images, label, index=torch.arange(3), is_probe=is_probe)
        >>> metric.compute()["rank@1"].item()
        1.0
    """

    def __init__(
        self,
        embedding_dim: int,
        protocol: Literal["distractors", "gallery"] = "distractors",
        ks: Sequence[int] = (1,),
        rates: Sequence[float] = (1e-2, 1e-4, 1e-6),
        **kwargs: Any,
    ) -> None:
        check_at_least(1, embedding_dim=embedding_dim)
        check_one_of(("distractors", "gallery"), protocol=protocol)
        check_ranks(ks)
        whole = torch.zeros(0, dtype=torch.int64)
        empty = {
            "embedding": torch.zeros(0, embedding_dim),
            "label": whole,
            "is_probe": torch.zeros(0, dtype=torch.bool),
            "index": whole,
        }
        super().__init__(empty, **kwargs)
        self.protocol = protocol
        self.ks = list(ks)
        self.rates = checked_rates(rates)

    def update(self, embedding: Tensor, label: Tensor, index: Tensor, is_probe: Tensor) -> None:
        """Add a batch of B images.

        Args:
            embedding: (B, d), of any norm.
            label: Person of each image, (B,) int64; that of a distractor is not read.
            index: Number of each image, (B,) int64.
            is_probe: Whether each is a probe rather than a distractor or in the gallery, (B,) bool.
        """
        rows = {
            "embedding": embedding.detach().float(),
            "label": label,
            "is_probe": is_probe,
            "index": index,
        }
        for name, value in rows.items():
            getattr(self, name).append(value)

    def compute(self) -> dict[str, Any]:
        """Return the values by name; without probes or others none."""
        states = [self.joined(name, self.device) for name in self._empty]
        rows = first_of_each(states[-1])
        embedding, label, is_probe, _ = (state[rows] for state in states)
        probe, person, other = embedding[is_probe], label[is_probe], embedding[~is_probe]
        if not len(probe) or not len(other):
            return {}
        if self.protocol == "distractors":
            found = identify_among_distractors(probe, person, other, self.ks)
            summary = verify_against_distractors(probe, person, other, self.rates)
            values = summary_values(summary, self.rates)
        else:
            gallery = (other, label[~is_probe])
            found, _ = identify(probe, person, *gallery, self.ks)
            rates = measurable(self.rates, len(probe) - found.number, found.number)
            errors = identify(probe, person, *gallery, self.ks, rates)[1].fnir
            values = {
                name.replace("tar@far", "fnir@fpir"): value
                for name, value in tar_values(rates, errors).items()
            }
        if found.number:
            values |= {f"rank@{k}": rate for k, rate in zip(self.ks, found.rate, strict=True)}
        return values

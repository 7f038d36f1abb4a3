"""Metrix: mixed examples, which are positives and negatives of an anchor in part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import gather, gather_with_grad, rank, rows_per_rank
from framework.embedding.generic_pair_loss import GenericPairLoss
from framework.utilities.checks import check_at_least, check_one_of, check_positive
from framework.utilities.devices import to_device
from framework.utilities.precision import at_least_float32

MAX_PAIRS = 4096
SHORTEST = 1e-3
"""Length below which a mixed embedding, such as that of opposite ones, is not stretched to 1."""


@dataclass(frozen=True)
class MixedPairs:
    """V pairs of rows of two classes, of which mixtures are made."""

    first: Tensor
    """(V,) int64 positions of rows."""
    second: Tensor
    """(V,) int64."""
    share: Tensor
    """(V,) part of the first row in each mixture, in [0, 1]."""
    valid: Tensor
    """(V,) bool, False where there were fewer pairs than places."""
    possible: Tensor
    """Number of pairs that could have been mixed."""
    anchors_mixed: bool
    """Whether the first row is the anchor itself, instead of a positive of the anchors."""

    def mix(self, rows: Tensor) -> Tensor:
        """Return the mixtures (V, ...) of rows (N, ...)."""
        share = self.share.to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))
        return share * rows[self.first] + (1 - share) * rows[self.second]


@dataclass(frozen=True)
class MixedBatch:
    """Embeddings of a batch and of mixtures of two of its rows.

    Mixtures are made of the rows of all ranks with the mode ``'embedding'``, else of this rank's.
    """

    embeddings: Tensor
    """(B_r, d) of this rank's rows, as the network returned them."""
    mixed: Tensor
    """(V, d)."""
    pairs: MixedPairs
    """What each mixture is made of."""
    labels: Tensor
    """(N,) int64 classes of the rows that mixtures are made of."""
    start: int
    """Position of this rank's first row among them."""


class Metrix:
    """Mixes pairs of rows, and compares anchors with the mixtures by any pair loss.

    For an anchor, a mixture of a positive and a negative is a positive by the share of the former
    and a negative by the rest, where shares come from Beta(alpha, alpha). All positives of an
    anchor are used, and each mixture is embedded once, for all anchors of its first row's class.
    The loss of a step is that of the clean batch plus ``weight`` times that of the mixtures.

    Images are mixed before the network, which then runs once on clean and mixed ones; feature maps
    before ``forward_head``, so that the trunk runs on clean images only; or embeddings of length
    1. Embeddings are mixed over the rows of all ranks, so that the numbers are those of one
    process; images and maps among each rank's own rows, as gathering them would take too long.
    Batch normalization sees mixtures, too, and should be frozen where that is not wanted.

    Paper: It Takes Two to Tango: Mixup for Deep Metric Learning. arXiv:2106.04990. The published
    code flips a coin in each step (``pairs='coin'``), which under a sampler of m images per class
    leaves every second step without mixtures, uses one positive of each anchor only, and draws one
    share for all mixtures of a step, where the paper's equation has one for each (``per_pair``).

    Args:
        mode: What is mixed: ``'input'``, ``'feature'`` or ``'embedding'``.
        alpha: Parameter of the symmetric beta distribution of the shares.
        weight: Weight of the loss of mixtures beside that of the clean batch.
        pairs: What is mixed for an anchor: ``'positive_negative'``, ``'anchor_negative'`` (the
            anchor itself and a negative), or ``'coin'``: either the former for anchors with
            positives or the latter for those without, drawn anew in each step.
        max_pairs: Number of mixtures in a step, drawn from all; default 4096, and with the mode
            ``'input'`` the number of images.
        per_pair: Whether each mixture has a share of its own, instead of one for all in a step.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from framework.embedding import Metrix, MultiSimilarityLoss
        >>> metrix, criterion = Metrix(mode="embedding"), MultiSimilarityLoss()
        >>> images, labels = torch.randn(4, 8), torch.tensor([0, 0, 1, 1])
        >>> batch = metrix.embed(torch.nn.Linear(8, 2), images, labels, torch.Generator())
        >>> mixed, logs = metrix.loss(criterion, batch)
        >>> loss = criterion(batch.embeddings, labels) + metrix.weight * mixed.mean()
        >>> (batch.mixed.shape, int(logs["metrix_pairs"]))
        (torch.Size([16, 2]), 8)
    """

    def __init__(
        self,
        mode: Literal["input", "feature", "embedding"] = "feature",
        alpha: float = 2.0,
        weight: float = 0.4,
        pairs: Literal["positive_negative", "anchor_negative", "coin"] = "positive_negative",
        max_pairs: int | None = None,
        per_pair: bool = False,
    ) -> None:
        check_one_of(("input", "feature", "embedding"), mode=mode)
        check_one_of(("positive_negative", "anchor_negative", "coin"), pairs=pairs)
        check_positive(alpha=alpha)
        check_at_least(0, weight=weight)
        check_at_least(1, max_pairs=max_pairs)
        self.mode = mode
        self.alpha = alpha
        self.weight = weight
        self.pairs = pairs
        self.max_pairs = max_pairs
        self.per_pair = per_pair

    def check(self, criterion: GenericPairLoss) -> None:
        """Raise ``ValueError`` if a pair loss gives no gradient for such mixtures."""
        if criterion.needs_labels_that_differ and not self.per_pair:
            raise ValueError(
                f"The gradient of {type(criterion).__name__} is 0 where all mixtures have one "
                "share: set per_pair of Metrix to true."
            )

    def embed(
        self,
        network: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
    ) -> MixedBatch:
        """Embed the images of a batch and mixtures of them.

        Args:
            network: Network from images to embeddings (B, d); the mode ``'feature'`` takes one in
                two parts, ``forward_features`` and ``forward_head``, as timm's are.
            images: Images of this rank (B_r, C, H, W).
            labels: Their classes (B_r,) int64.
            generator: Generator of the CPU in the same state on every rank, such as
                ``shared_generator(seed, step, "metrix")``.
        """
        if self.mode == "embedding":
            return self.mix(network(images), labels, generator)
        pairs = self.choose(labels, generator)
        if self.mode == "input":
            both = network(torch.cat([images, pairs.mix(images)]))
            embeddings, mixed = both[: len(images)], both[len(images) :]
        else:
            parts: Any = network
            maps = parts.forward_features(images)
            embeddings, mixed = parts.forward_head(maps), parts.forward_head(pairs.mix(maps))
        return MixedBatch(embeddings, mixed, pairs, labels, start=0)

    def mix(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator) -> MixedBatch:
        """Mix embeddings of all ranks; see ``embed``.

        Args:
            embeddings: Embeddings of this rank (B_r, d), of any length.
            labels: Their classes (B_r,) int64.
            generator: Generator of the CPU in the same state on every rank.
        """
        counts = rows_per_rank(len(labels), labels.device)
        everyone = gather(labels, counts)
        pairs = self.choose(everyone, generator)
        unit = F.normalize(gather_with_grad(at_least_float32(embeddings), counts), dim=-1)
        return MixedBatch(embeddings, pairs.mix(unit), pairs, everyone, sum(counts[: rank()]))

    def loss(
        self, criterion: GenericPairLoss, batch: MixedBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the mixtures, not yet multiplied by ``weight``, and facts.

        Args:
            criterion: Pair loss.
            batch: What ``embed`` returned.

        Returns:
            A value for each of this rank's rows, (B_r,), whose mean over all ranks is the loss; and
            ``metrix_pairs``, ``metrix_possible_pairs`` and ``metrix_share``: number of mixtures,
            number of pairs that could have been mixed, and mean share of their first rows.

        Raises:
            ValueError: Such mixtures give no gradient, see ``check``.
        """
        self.check(criterion)
        rows, pairs = len(batch.embeddings), batch.pairs
        own = batch.labels[batch.start : batch.start + rows]
        with torch.autocast(device_type=batch.mixed.device.type, enabled=False):
            anchors = criterion.anchors(at_least_float32(batch.embeddings), own, batch.start)
            if pairs.anchors_mixed and anchors.rows is not None:
                used = anchors.rows[:, None] == pairs.first
            else:
                used = anchors.labels[:, None] == batch.labels[pairs.first]
                if anchors.rows is not None:
                    used &= anchors.rows[:, None] != pairs.first
            mixed = F.normalize(at_least_float32(batch.mixed), dim=-1, eps=SHORTEST)
            similarities = anchors.embeddings @ mixed.T
            values = criterion.of_similarities(similarities, pairs.share, used & pairs.valid)
            values = criterion.of_rows(values, rows)
        pairs_mixed = pairs.valid.sum()
        share = torch.where(pairs.valid, pairs.share, 0.0).sum() / pairs_mixed.clamp(min=1)
        return values, {
            "metrix_pairs": pairs_mixed.to(values.dtype),
            "metrix_possible_pairs": pairs.possible.to(values.dtype),
            "metrix_share": share.to(values.dtype),
        }

    def choose(self, labels: Tensor, generator: torch.Generator) -> MixedPairs:
        """Draw the pairs of a step and the shares of their first rows.

        Args:
            labels: Classes of the rows (N,) int64.
            generator: Generator of the CPU, see ``embed``.
        """
        n = len(labels)
        same = labels[:, None] == labels
        allowed = ~same
        coin, *seeds = torch.randint(2**62, (3,), generator=generator).tolist()
        anchors_mixed = self.pairs == "anchor_negative" or (self.pairs == "coin" and coin % 2 == 1)
        if not anchors_mixed:
            allowed &= (same.sum(1) > 1)[:, None]
        elif self.pairs == "coin":
            allowed &= (same.sum(1) == 1)[:, None]
        limit = self.max_pairs or (n if self.mode == "input" else MAX_PAIRS)
        # drawn where they are used, as n^2 numbers would take long to get there
        here = torch.Generator(labels.device).manual_seed(seeds[0])
        order = torch.rand(n, n, generator=here, device=labels.device)
        # pairs that are not allowed come last
        best = (order + (~allowed).float()).flatten().topk(min(limit, n * n), largest=False)
        # torch's own beta distribution takes no generator
        beta = np.random.default_rng(seeds[1])
        size = len(best.values) if self.per_pair else 1
        share = torch.from_numpy(beta.beta(self.alpha, self.alpha, size)).expand(len(best.values))
        return MixedPairs(
            first=best.indices // n,
            second=best.indices % n,
            share=to_device(share.contiguous(), labels.device),
            valid=best.values < 1,
            possible=allowed.sum(),
            anchors_mixed=anchors_mixed,
        )

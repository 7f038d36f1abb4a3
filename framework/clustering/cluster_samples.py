"""The most certain samples of every cluster, for a figure of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least
from framework.utilities.counts import count_values


class KeptSamples(NamedTuple):
    """The images of every cluster, the most certain first."""

    images: Tensor
    """(K, P, C, H, W) float32; 0 where there is none."""
    filled: Tensor
    """(K, P) bool."""


class ClusterSamples(Metric):
    """Keeps for every cluster the images that are in it with the highest probability.

    Of equal probabilities the lowest sample index comes first, so that batches and ranks do not
    matter. Memory is fixed, and no rank needs to have a row.

    Args:
        num_clusters: Number of clusters K.
        image_shape: Shape (C, H, W) of an image.
        per_cluster: Number of images kept of each cluster, P.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: K or P below 1.

    Example:
        >>> import torch
        >>> from framework.clustering.cluster_samples import ClusterSamples
        >>> samples = ClusterSamples(num_clusters=2, image_shape=(1, 1, 1), per_cluster=2)
        >>> image, cluster = torch.arange(4.0).view(4, 1, 1, 1), torch.tensor([0, 0, 0, 1])
        >>> samples.update(image, cluster, torch.tensor([0.6, 0.7, 0.9, 0.5]), torch.arange(4))
        >>> images, filled = samples.compute()
        >>> images.flatten(1)
        tensor([[2., 1.],
                [3., 0.]])
        >>> filled
        tensor([[ True,  True],
                [ True, False]])
    """

    # forward would otherwise merge states by a rule that is not that of the selection
    full_state_update = True
    is_differentiable = False
    image: Tensor
    probability: Tensor
    index: Tensor

    def __init__(
        self,
        num_clusters: int,
        image_shape: Sequence[int],
        per_cluster: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_clusters=num_clusters, per_cluster=per_cluster)
        places = (num_clusters, per_cluster)
        # an empty place is below every sample in probability and index; ranks are stacked
        self.add_state("image", torch.zeros(*places, *image_shape), dist_reduce_fx=None)
        self.add_state("probability", torch.full(places, -1.0), dist_reduce_fx=None)
        empty = torch.full(places, -1, dtype=torch.int64)
        self.add_state("index", empty, dist_reduce_fx=None)

    def update(self, image: Tensor, cluster: Tensor, probability: Tensor, index: Tensor) -> None:
        """Keep those images of a batch that belong to the most certain so far.

        Args:
            image: (B, C, H, W).
            cluster: (B,) int64, in 0..K-1.
            probability: (B,) probability of that cluster.
            index: (B,) int64 stable number of the sample, at least 0.
        """
        rows = (image, probability, index, cluster)
        kept = (self.image, self.probability, self.index, self._cluster_of_places())
        self.image, self.probability, self.index = self._most_certain(
            *(
                torch.cat([old.flatten(0, 1), new.to(old)])
                for old, new in zip(kept, rows, strict=True)
            )
        )

    def compute(self) -> KeptSamples:
        """Return the images over all ranks and which places are filled."""
        image, probability, index = self.image, self.probability, self.index
        if index.ndim == 3:
            cluster = self._cluster_of_places().expand_as(index)
            states = (image, probability, index, cluster)
            image, _, index = self._most_certain(*(state.flatten(0, 2) for state in states))
        return KeptSamples(image, index >= 0)

    def _cluster_of_places(self) -> Tensor:
        clusters, per_cluster = self.index.shape[-2:]
        return torch.arange(clusters, device=self.index.device)[:, None].expand(-1, per_cluster)

    def _most_certain(
        self, image: Tensor, probability: Tensor, index: Tensor, cluster: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the places of every cluster from rows of which each has at least so many."""
        clusters, per_cluster = self.index.shape[-2:]
        order = index.argsort(stable=True)
        order = order[probability[order].argsort(descending=True, stable=True)]
        order = order[cluster[order].argsort(stable=True)]
        rows = count_values(cluster, clusters)
        first = rows.cumsum(0) - rows
        places = torch.arange(per_cluster, device=index.device)
        chosen = order[first[:, None] + places]
        return image[chosen], probability[chosen], index[chosen]

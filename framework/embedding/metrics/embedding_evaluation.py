"""What an evaluation says of the embeddings of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.embedding.metrics.pair_scores import pair_values, summary_values
from framework.embedding.metrics.retrieval import retrieval_scores, retrieval_values
from framework.embedding.metrics.roc import checked_rates
from framework.embedding.metrics.row_order import first_of_each
from framework.embedding.metrics.score_blocks import summarize_all_pairs
from framework.embedding.pairs import Pairs
from framework.metrics.row_metric import RowMetric
from framework.ops.cosines import nearest_neighbors, squared_distances, unit
from framework.utilities.checks import check_at_least


class QueryNeighbors(NamedTuple):
    """The nearest other images of Q images, by their positions in the set.

    Args:
        query: (Q,) int64.
        found: (Q, k) int64, nearest first.
        same: Whether each is of the query's class, (Q, k) bool; None where classes are not known.
        similarity: Cosines (Q, k).
    """

    query: Tensor
    found: Tensor
    same: Tensor | None
    similarity: Tensor


class EmbeddingEvaluation(RowMetric):
    """Collects the embedding of every image once, and compares them when all have been seen.

    Images are ordered by their position in the set, and one that comes twice counts once, so that
    batches and ranks do not matter. ``compute`` returns, each where there is something to compare:

    - of each list of pairs NAME what ``pair_values`` returns, as ``NAME/acc`` and so on;
    - of images with a label ``recall@K``, ``r_precision``, ``map@r``, and ``excluded_queries``
      where some image is the only one of its class; ``tar@far=1e-3`` and ``curves`` of all pairs of
      two of them, and ``neighbors``, the nearest images of a few; where the images are queries and
      a gallery, queries are compared with the gallery alone, but for ``tar@far`` and ``curves``;
    - ``xnorm``, the mean norm of the embeddings.

    A FAR that there are too few pairs to measure has no value.

    Args:
        embedding_dim: Width d of an embedding.
        pairs: Lists of pairs by name.
        far: False acceptance rates at which the true one is told.
        ks: Numbers K of nearest images.
        queries: Number of images whose neighbors are kept for a figure; 0 for none.
        neighbors: Number of neighbors of each.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: A number below 1, or a rate outside of [0, 1].

    Example:
        >>> metric = EmbeddingEvaluation(embedding_dim=2)
        >>> points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> metric.update(points, torch.tensor([0, 0, 1, 1]), index=torch.arange(4))
        >>> metric.compute()["recall@1"].item()
        1.0
    """

    def __init__(
        self,
        embedding_dim: int,
        pairs: Mapping[str, Pairs] | None = None,
        far: Sequence[float] = (1e-2, 1e-3),
        ks: Sequence[int] = (1,),
        queries: int = 8,
        neighbors: int = 6,
        **kwargs: Any,
    ) -> None:
        check_at_least(1, embedding_dim=embedding_dim, neighbors=neighbors)
        check_at_least(0, queries=queries)
        for k in ks:
            check_at_least(1, ks=k)
        empty = {
            "embedding": torch.zeros(0, embedding_dim),
            "label": torch.zeros(0, dtype=torch.int64),
            "index": torch.zeros(0, dtype=torch.int64),
            "is_gallery": torch.zeros(0, dtype=torch.bool),
        }
        super().__init__(empty, **kwargs)
        self.embedding_dim = embedding_dim
        self.pairs = dict(pairs or {})
        self.far = checked_rates(far)
        self.ks = list(ks)
        self.queries = queries
        self.neighbors = neighbors

    def update(
        self, embedding: Tensor, label: Tensor, index: Tensor, is_query: Tensor | None = None
    ) -> None:
        """Add a batch of B images.

        Args:
            embedding: (B, d), of any norm.
            label: Class of each image, (B,) int64; -1 where it is not known.
            index: Position of each image in the set, (B,) int64.
            is_query: Whether each is a query rather than in the gallery, (B,) bool, where the two
                differ, as in In-Shop; then in every batch.

        Raises:
            ValueError: The embedding has another width.
        """
        if embedding.shape[1:] != (self.embedding_dim,):
            raise ValueError(
                f"embedding must be (B, {self.embedding_dim}), got {tuple(embedding.shape)}."
            )
        rows = {
            "embedding": embedding.detach().float(),
            "label": label,
            "index": index,
            "is_gallery": torch.zeros_like(label, dtype=torch.bool)
            if is_query is None
            else ~is_query,
        }
        for name, value in rows.items():
            getattr(self, name).append(value)

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return embedding (N, d), label (N,) and index (N,) of all images, by index."""
        names = ("embedding", "label", "index")
        embedding, label, index = (self.joined(name, self.device) for name in names)
        rows = first_of_each(index)
        return embedding[rows], label[rows], index[rows]

    def compute(self) -> dict[str, Any]:
        """Return the values by name."""
        embedding, label, index = self.rows()
        values: dict[str, Any] = {}
        if not len(index):
            return values
        norm = embedding.norm(dim=1)
        embedding = unit(embedding)
        for name, pairs in self.pairs.items():
            found = self._values_of(pairs, embedding, index)
            values |= {f"{name}/{key}": value for key, value in found.items()}
        known = label >= 0
        values |= self._values_of_classes(
            embedding[known], label[known], index[known], self._is_gallery()[known]
        )
        values["xnorm"] = norm.mean()
        return values

    def _is_gallery(self) -> Tensor:
        index, is_gallery = (self.joined(name, self.device) for name in ("index", "is_gallery"))
        return is_gallery[first_of_each(index)]

    def _values_of(self, pairs: Pairs, embedding: Tensor, index: Tensor) -> dict[str, Any]:
        first, second, same = (
            part.to(index.device) for part in (pairs.first, pairs.second, pairs.same)
        )
        # an evaluation may have been limited to some batches
        rows = [
            torch.searchsorted(index, part).clamp(max=len(index) - 1) for part in (first, second)
        ]
        seen = (index[rows[0]] == first) & (index[rows[1]] == second)
        distances = squared_distances(embedding, rows[0][seen], rows[1][seen])
        return pair_values(distances, same[seen], pairs.num_folds, self.far)

    def _values_of_classes(
        self, embedding: Tensor, label: Tensor, index: Tensor, is_gallery: Tensor
    ) -> dict[str, Any]:
        query, gallery = (~is_gallery).nonzero()[:, 0], is_gallery.nonzero()[:, 0]
        among = (embedding[gallery], label[gallery]) if len(gallery) else ()
        scores = retrieval_scores(embedding[query], label[query], self.ks, *among)
        values: dict[str, Any] = {**retrieval_values(scores, self.ks)}
        if not values:
            return values
        values |= summary_values(summarize_all_pairs(embedding, label, self.far), self.far)
        if self.queries:
            values["neighbors"] = self._neighbors(embedding, label, index, query, gallery)
        return values

    def _neighbors(
        self, embedding: Tensor, label: Tensor, index: Tensor, query: Tensor, gallery: Tensor
    ) -> QueryNeighbors:
        number = min(self.queries, len(query))
        # evenly over the set, as one that is sorted by class would otherwise show few of them
        place = torch.arange(number, device=index.device) * len(query) // number
        among, own = (gallery, None) if len(gallery) else (query, place)
        k = min(self.neighbors, len(among) - int(own is not None))
        query = query[place]
        parts = list(nearest_neighbors(embedding[query], embedding[among], k, own))
        found = among[torch.cat([part.found for part in parts])]
        similarity = torch.cat([part.similarity for part in parts])
        return QueryNeighbors(
            index[query], index[found], label[found] == label[query, None], similarity
        )

"""Retrieval: whether the nearest other items are of the class of a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from framework.ops.cosines import BLOCK, nearest_neighbors, unit
from framework.utilities.checks import check_at_least


class RetrievalScores(NamedTuple):
    """Means over the queries whose class has another item, in float64.

    Args:
        recall: Share of queries with an item of their class among the K nearest, for each K, (n,).
        r_precision: Mean share of the class among the R nearest, R being the number of its other
            items, ().
        map_at_r: Mean of the average precision of the R nearest, ().
        queries: Number of queries that count.
        excluded: Number of queries without another item of their class.
    """

    recall: Tensor
    r_precision: Tensor
    map_at_r: Tensor
    queries: int
    excluded: int


def retrieval_scores(
    embedding: Tensor,
    label: Tensor,
    ks: Sequence[int] = (1,),
    gallery: Tensor | None = None,
    gallery_label: Tensor | None = None,
    block: int = BLOCK,
) -> RetrievalScores:
    """Return what the nearest items by cosine say, all in one pass over the similarities.

    Without a gallery each item is a query to all others; it is left out by its place, so that a
    copy of its image counts. Of items as near the first comes first. The similarities are computed
    some rows at a time and never all kept.

    Args:
        embedding: Embeddings of the queries, (Q, d).
        label: Class of each query, (Q,) int64.
        ks: Numbers K of nearest items.
        gallery: Embeddings of the items that are found, (N, d), if they are others.
        gallery_label: Class of each of them, (N,).
        block: Similarities that are in memory at a time.

    Raises:
        ValueError: A K below 1, or a gallery without its classes.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.5]])
        >>> retrieval_scores(points, torch.tensor([0, 0, 1, 1]), ks=(1, 3)).recall.tolist()
        [0.75, 1.0]
    """
    for k in ks:
        check_at_least(1, k=k)
    if (gallery is None) != (gallery_label is None):
        raise ValueError("A gallery needs the class of each of its items, and classes a gallery.")
    query = unit(embedding)
    own = None
    if gallery is None or gallery_label is None:
        found, found_label = query, label
        own = torch.arange(len(query), device=query.device)
    else:
        found, found_label = unit(gallery), gallery_label
    relevant = _count(label, found_label) - int(own is not None)
    counts = relevant > 0
    excluded = int((~counts).sum())
    query, label, relevant = query[counts], label[counts], relevant[counts]
    own = None if own is None else own[counts]
    if not len(query):
        nothing = torch.full((), torch.nan, dtype=torch.float64, device=query.device)
        return RetrievalScores(nothing.expand(len(ks)), nothing, nothing, 0, excluded)
    most = min(max(int(relevant.max()), *ks), len(found) - int(own is not None))
    place = torch.arange(1, most + 1, device=query.device)
    recall, precision, average = [], [], []
    for part in nearest_neighbors(query, found, most, own, block):
        hit = found_label[part.found] == label[part.rows, None]
        recall.append(torch.stack([hit[:, :k].any(1) for k in ks], 1))
        size = relevant[part.rows]
        kept = hit & (place <= size[:, None])
        precision.append(kept.sum(1) / size.double())
        average.append((kept.cumsum(1) * kept / place.double()).sum(1) / size)
    return RetrievalScores(
        torch.cat(recall).double().mean(0),
        torch.cat(precision).mean(),
        torch.cat(average).mean(),
        len(query),
        excluded,
    )


def retrieval_values(scores: RetrievalScores, ks: Sequence[int]) -> dict[str, Tensor]:
    """Return scores by their names in a log; without queries none.

    Args:
        scores: Scores.
        ks: Numbers K of nearest items of the scores.
    """
    if not scores.queries:
        return {}
    values = {f"recall@{k}": value for k, value in zip(ks, scores.recall, strict=True)}
    values |= {"r_precision": scores.r_precision, "map@r": scores.map_at_r}
    if scores.excluded:
        values["excluded_queries"] = scores.map_at_r.new_tensor(scores.excluded)
    return values


def recall_at_k(embedding: Tensor, label: Tensor, k: int = 1) -> Tensor:
    """Return the share of items with one of their class among the K nearest others, ().

    See ``retrieval_scores``, which takes a gallery too and says how many items have no other.

    Args:
        embedding: (N, d).
        label: (N,) int64.
        k: Number K of nearest items.
    """
    return retrieval_scores(embedding, label, (k,)).recall[0]


def r_precision(embedding: Tensor, label: Tensor) -> Tensor:
    """Return the mean share of an item's class among the R nearest others, ().

    R is the number of other items of its class; see ``retrieval_scores``.

    Args:
        embedding: (N, d).
        label: (N,) int64.
    """
    return retrieval_scores(embedding, label).r_precision


def map_at_r(embedding: Tensor, label: Tensor) -> Tensor:
    """Return the mean average precision at R, ().

    R is the number of other items of an item's class; see ``retrieval_scores``.
    Paper: A Metric Learning Reality Check, arXiv:2003.08505.

    Args:
        embedding: (N, d).
        label: (N,) int64.
    """
    return retrieval_scores(embedding, label).map_at_r


def _count(label: Tensor, among: Tensor) -> Tensor:
    """Return how often each label (Q,) stands among others (N,)."""
    among = among.sort().values
    return torch.searchsorted(among, label, right=True) - torch.searchsorted(among, label)

"""Figures of what contrastive learning makes of its training samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from framework.data.datasets import root_and_rows
from framework.embedding.figures.neighbors import neighbor_rows
from framework.embedding.metrics.embedding_evaluation import QueryNeighbors
from framework.figures.embedding_map import embedding_map
from framework.ops.cosines import nearest_neighbors, unit

QUERIES, NEIGHBORS = 8, 6
CHANNELS = (1, 3)


def representation_figures(
    shown: Mapping[str, Tensor],
    picture: Callable[[int], Tensor] | None = None,
    class_names: Sequence[str] | None = None,
) -> dict[str, Figure]:
    """Return a map of representations, and some training images with those nearest to them.

    Args:
        shown: ``representation`` (N, D) and ``index`` (N,) of training samples, and where they are
            known ``label`` (N,) and ``temperature`` (N,), which color the map.
        picture: Function from an index to the image (C, H, W) in [0, 1]; None for no neighbors.
        class_names: Names of the classes; default 0, 1, ...
    """
    representation, index = unit(shown["representation"]), shown["index"].cpu()
    if len(index) < 2:
        return {}
    label = shown.get("label")
    values = {"temperature": shown["temperature"]} if "temperature" in shown else None
    title = "Representations of training samples"
    figures = {"embedding": embedding_map(representation, label, values, class_names, title=title)}
    if picture is not None:
        found = nearest_of_some(representation, label)
        query = torch.stack([picture(int(i)) for i in index[found.query]])
        rows = [torch.stack([picture(int(i)) for i in index[row]]) for row in found.found]
        figures["neighbors"] = neighbor_rows(query, torch.stack(rows), found)
    return figures


def nearest_of_some(
    representation: Tensor,
    label: Tensor | None = None,
    queries: int = QUERIES,
    neighbors: int = NEIGHBORS,
) -> QueryNeighbors:
    """Return the nearest other rows of a few rows, which lie evenly over all.

    Args:
        representation: (N, D), of norm 1, N >= 2.
        label: Class of each row, (N,) int64; one that is not known, negative, hides all.
        queries: Number of rows whose neighbors are found.
        neighbors: Number of neighbors of each.

    Example:
        >>> points = unit(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]))
        >>> nearest_of_some(points, queries=1, neighbors=1).found
        tensor([[2]])
    """
    rows = len(representation)
    number = min(queries, rows)
    query = torch.arange(number, device=representation.device) * rows // number
    k = min(neighbors, rows - 1)
    parts = list(nearest_neighbors(representation[query], representation, k, query))
    found = torch.cat([part.found for part in parts]).cpu()
    query = query.cpu()
    same = None
    if label is not None and bool((label >= 0).all()):
        label = label.cpu()
        same = label[found] == label[query, None]
    return QueryNeighbors(query, found, same, torch.cat([part.similarity for part in parts]).cpu())


def training_pictures(data: Any) -> Callable[[int], Tensor] | None:
    """Return what gives a training image in [0, 1] by its index, or None where data has none.

    Args:
        data: Datamodule, set up.
    """
    dataset = getattr(data, "plain_train_set", None)
    source, _ = root_and_rows(data.train_set if dataset is None else dataset, [])
    image = source[0].get("image") if source is not None and len(source) else None
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in CHANNELS:
        return None
    scale = getattr(data, "normalize", None)

    def picture(index: int) -> Tensor:
        image = source[index]["image"]
        return (image if scale is None else scale.undo(image)).clamp(0, 1)

    return picture

"""The figures of an evaluation of embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from framework.embedding.figures.neighbors import neighbor_rows
from framework.embedding.figures.roc import roc_curves
from framework.embedding.figures.similarities import similarity_histograms


def evaluation_figures(
    values: dict[str, Any], picture: Callable[[int], Tensor] | None
) -> dict[str, Figure]:
    """Return ROC curves, similarities of pairs, and the nearest neighbors of some images, by name.

    Args:
        values: What ``EmbeddingEvaluation`` computed.
        picture: Function from the position of an image to the image (C, H, W) in [0, 1]; None for
            no neighbors.
    """
    ends = "/curves"
    curves = {name.removesuffix(ends): v for name, v in values.items() if name.endswith(ends)}
    if "curves" in values:
        curves["all pairs"] = values["curves"]
    figures: dict[str, Figure] = {}
    if curves:
        # of length 1, the squared distance of two vectors is 2 less two cosines
        thresholds = {
            name: 1 - float(values[f"{name}/threshold"]) / 2
            for name in curves
            if f"{name}/threshold" in values
        }
        figures["roc"] = roc_curves({name: one.roc for name, one in curves.items()})
        figures["similarities"] = similarity_histograms(
            {name: one.histogram for name, one in curves.items()}, thresholds
        )
    if "neighbors" in values and picture is not None:
        found = values["neighbors"]
        rows = [torch.stack([picture(int(i)) for i in row]) for row in found.found]
        query = torch.stack([picture(int(i)) for i in found.query])
        figures["neighbors"] = neighbor_rows(query, torch.stack(rows), found)
    return figures

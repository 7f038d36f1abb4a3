"""Figure of the similarities of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from framework.figures.style import COLORS, STYLE, WIDTH, titled

KINDS = (("pairs of two classes", COLORS[1]), ("pairs of one class", COLORS[0]))

FEW = 2000
"""Pairs of a kind that fill 128 parts evenly enough to be seen."""


@rc_context(STYLE)
def similarity_histograms(
    histograms: Mapping[str, Tensor], thresholds: Mapping[str, float] | None = None
) -> Figure:
    """Draw how the cosines of pairs of one class and of two are spread, a panel for each set.

    Each kind is drawn as shares of its own pairs, which are far fewer of one class.

    Args:
        histograms: By the name of a set the number of pairs of two classes and of one in equal
            parts of [-1, 1], (2, n).
        thresholds: Cosine from which on a pair is accepted, of the sets that have one.

    Example:
        >>> import torch
        >>> len(similarity_histograms({"faces": torch.ones(2, 128)}, {"faces": 0.3}).axes)
        1
    """
    thresholds = thresholds or {}
    columns = min(2, max(1, len(histograms)))
    lines = max(1, math.ceil(len(histograms) / columns))
    figure = titled(
        "Similarities of pairs", 1.2 + 2.3 * lines, WIDTH if columns > 1 else 0.75 * WIDTH
    )
    legend: dict[str, Any] = {}
    for place, (name, counts) in enumerate(histograms.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        _draw(axes, counts.cpu().double().numpy(), thresholds.get(name))
        threshold = thresholds.get(name)
        said = "" if threshold is None else f", threshold {threshold:.2f}"
        axes.set_title(f"{name}{said}", loc="left")
        if place > len(histograms) - columns:
            axes.set_xlabel("cosine similarity")
        legend |= {str(line.get_label()): line for line in axes.get_legend_handles_labels()[0]}
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=3)
    return figure


def _draw(axes: Axes, counts: np.ndarray, threshold: float | None) -> None:
    counts = _coarse(counts)
    edges = np.linspace(-1, 1, counts.shape[1] + 1)
    for (label, color), numbers in zip(KINDS, counts, strict=True):
        share = numbers / max(1.0, numbers.sum())
        axes.stairs(share, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(share, edges, color=color, linewidth=1.2, label=label)
    if threshold is not None:
        axes.axvline(threshold, color="0.2", linestyle="--", linewidth=1.2, label="threshold")
    filled = counts.sum(0).nonzero()[0]
    if len(filled):
        axes.set_xlim(max(-1, edges[filled[0]] - 0.05), min(1, edges[filled[-1] + 1] + 0.05))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
    axes.set_ylabel("share of pairs")


def _coarse(counts: np.ndarray) -> np.ndarray:
    """Return a histogram with parts joined while its fewest pairs would make it ragged."""
    while counts.shape[1] % 2 == 0 and counts.shape[1] > 32 and counts.sum(1).min() < FEW:
        counts = counts.reshape(2, -1, 2).sum(2)
    return counts

"""Figures of a sparse code: how often its features are active, and how many at once."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from framework.figures.style import COLORS, STYLE, WIDTH, titled
from framework.sparse_coding.zipf import ZipfFit, zipf_density


@rc_context(STYLE)
def feature_density(density: Tensor, fit: ZipfFit | None = None) -> Figure:
    """Draw on how many tokens features are active: a histogram, and density over rank.

    Args:
        density: (F,) share of tokens on which each feature is active.
        fit: Zipf law to draw beside the ranks.
    """
    measured = density.detach().double().cpu().sort(descending=True).values
    active = measured[measured > 0]
    dead = len(measured) - len(active)
    share = dead / max(1, len(measured))
    title = f"{len(measured):,} features, {dead:,} of them never active ({share:.1%})"
    figure = titled(title, 3.6)
    left, right = figure.subplots(1, 2)
    left.set_title("how many features are how often active", loc="left")
    left.set_xlabel("share of tokens on which it is active")
    left.set_ylabel("features")
    right.set_title("density by rank", loc="left")
    right.set_xlabel("rank of the feature")
    right.set_ylabel("share of tokens")
    if len(active):
        low = math.floor(math.log10(float(active[-1])))
        bins = np.logspace(low, 0, 1 + 8 * max(1, -low))
        left.hist(active.numpy(), bins=bins.tolist(), color=COLORS[0])
        left.set_xscale("log")
        ranks = np.arange(1, len(active) + 1)
        right.loglog(ranks, active.numpy(), color=COLORS[0], label="measured")
        bottom = float(active[-1]) / 2
        if fit is not None:
            law = zipf_density(len(measured), float(measured.sum()), fit.alpha, fit.beta)
            right.loglog(
                np.arange(1, len(law) + 1),
                law.numpy(),
                color=COLORS[1],
                linestyle="--",
                label=f"Zipf law: α = {fit.alpha:.2f}, β = {fit.beta:g} (R² = {fit.r2:.3f})",
            )
        right.set_ylim(bottom=bottom, top=1.3 * max(float(active[0]), bottom))
        right.legend(loc="lower left")
    return figure


@rc_context(STYLE)
def active_features(histogram: Tensor) -> Figure:
    """Draw how many features are active at once, as shares of the tokens.

    Args:
        histogram: (F + 1,) tokens with 0, 1, ..., F active features.
    """
    tokens = histogram.detach().double().cpu().numpy()
    total = max(1.0, float(tokens.sum()))
    counts = np.arange(len(tokens))
    mean = float(tokens @ counts) / total
    spread = math.sqrt(float(tokens @ (counts - mean) ** 2) / total)
    figure = titled("Active features of a token", 3.4, 0.75 * WIDTH)
    axes = figure.add_subplot()
    axes.set_title(
        f"{total:,.0f} tokens; mean {mean:.2f}, standard deviation {spread:.2f}",
        loc="left",
        fontsize=9,
        color="0.35",
    )
    used = np.flatnonzero(tokens)
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    width = max(1, math.ceil((last - first + 1) / 60))
    edges = np.arange(first, last + width + 1, width)
    shares, _ = np.histogram(counts, bins=edges, weights=tokens / total)
    axes.bar(edges[:-1] - 0.5, shares, width=0.9 * width, align="edge", color=COLORS[0])
    axes.axvline(mean, color=COLORS[1], linewidth=1.2)
    axes.set_xlim(first - 1.5 * width, edges[-1] + 0.5 * width)
    axes.set_xlabel("active features" if width == 1 else f"active features, {width} a bar")
    axes.set_ylabel("share of tokens")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure

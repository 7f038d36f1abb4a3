"""Figures of a density and of energies."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from framework.energy.energy_rows import Energies
from framework.energy.plane_view import PlaneView
from framework.figures.style import COLORS, STYLE, WIDTH, titled

MOST_DRAWS = 400
SHOWN = 1e-3
"""Share of its peak that a density must reach to be in the picture."""
MARGIN = 0.2
"""Empty share on every side of it."""


@rc_context(STYLE)
def density_panels(view: PlaneView) -> Figure:
    """Draw densities side by side in one scale, and draws of the noise on the last one.

    Args:
        view: Densities and draws.
    """
    number = len(view.densities)
    figure = titled("Densities", 0.9 + WIDTH / number, WIDTH)
    peak = max(float(density.max()) for density in view.densities.values())
    axes = figure.subplots(1, number, squeeze=False, sharex=True, sharey=True)[0]
    for axis, (title, density) in zip(axes, view.densities.items(), strict=True):
        axis.imshow(
            density.double().cpu().numpy().T,
            origin="lower",
            extent=view.extent,
            vmin=0,
            vmax=peak,
            cmap="viridis",
            aspect="equal",
        )
        axis.set_title(title, fontsize=9)
        axis.grid(visible=False)
    draws = view.draws[:MOST_DRAWS].double().cpu().numpy()
    across, along = shown_range(view)
    axes[0].set_xlim(across)
    axes[0].set_ylim(along)
    axes[-1].scatter(*draws.T, s=3, color="white", alpha=0.6, linewidths=0)
    return figure


def shown_range(view: PlaneView) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the part of both axes outside of which every density but the last is near 0.

    Args:
        view: Densities on a grid.
    """
    *others, last = [density.double().cpu() for density in view.densities.values()]
    inside = torch.stack([part > SHOWN * part.max() for part in others or [last]]).any(0)
    ends = []
    for axis, (start, stop) in enumerate((view.extent[:2], view.extent[2:])):
        places = inside.any(1 - axis).nonzero().flatten()
        step = (stop - start) / inside.shape[axis]
        first, after = int(places[0]), int(places[-1]) + 1
        room = MARGIN * (after - first)
        ends.append(
            (
                max(start, start + (first - room) * step),
                min(stop, start + (after + room) * step),
            )
        )
    return ends[0], ends[1]


@rc_context(STYLE)
def energy_histogram(energies: Energies) -> Figure:
    """Draw how often each energy is found, of outliers apart from the others.

    Args:
        energies: Energies of all rows.
    """
    figure = titled("Energies", 0.4 * WIDTH, 0.8 * WIDTH)
    axes = figure.add_subplot()
    outlier = energies.is_outlier.cpu().numpy()
    energy = energies.energy.cpu().numpy()
    finite = np.isfinite(energy)
    # the far tail of outliers would leave the others one bar
    low, high = np.quantile(energy[finite], [0.0, 0.98]) if finite.any() else (0.0, 1.0)
    bins = np.linspace(low, max(high, low + 1e-6), 50).tolist()
    shown = np.clip(energy[finite], bins[0], bins[-1])
    for name, mine, color in (
        ("evaluated rows", ~outlier[finite], COLORS[0]),
        ("outliers", outlier[finite], COLORS[1]),
    ):
        if mine.any():
            axes.hist(shown[mine], bins, label=name, color=color, alpha=0.6, density=True)
    axes.set_title(f"{len(energy):,} rows; the last bar holds all above it", fontsize=9)
    axes.set_xlabel("energy, -log p up to a constant")
    axes.set_ylabel("density")
    axes.legend()
    return figure

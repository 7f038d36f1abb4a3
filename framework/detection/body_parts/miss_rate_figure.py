"""Figure of miss rates."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from framework.detection.body_parts.miss_rate import FPPI_REFERENCES
from framework.figures.style import COLORS, STYLE, WIDTH, titled

LOWEST = 0.01
"""Miss rate at the lower end of the axis, on which a logarithm leaves no place for 0."""


@rc_context(STYLE)
def miss_rate_over_fppi(
    fppi: Tensor,
    miss_rates: Mapping[str, Tensor],
    averages: Mapping[str, float],
    title: str = "Miss rate over false positives per image",
) -> Figure:
    """Draw miss rates on logarithmic axes, one line each, over the range that averages cover.

    Args:
        fppi: (R,) false positives per image.
        miss_rates: Miss rate (R,) by the name of its line; one that is NaN is left out.
        averages: Log-average miss rate of each line.
        title: Heading.

    Example:
        >>> import torch
        >>> from framework.detection.body_parts.miss_rate_figure import miss_rate_over_fppi
        >>> fppi, head = torch.tensor([0.01, 0.1, 1.0]), torch.tensor([0.9, 0.5, 0.3])
        >>> len(miss_rate_over_fppi(fppi, {"head": head}, {"head": 0.51}).axes)
        1
    """
    figure = titled(title, 4.2, 0.7 * WIDTH)
    axes = figure.add_subplot()
    axes.axvspan(FPPI_REFERENCES[0], FPPI_REFERENCES[-1], color="0.97", zorder=0)
    styles = ("-", "--", ":")
    places = fppi.cpu().numpy()
    for number, (name, rate) in enumerate(miss_rates.items()):
        if bool(rate.isnan().any()):
            continue
        axes.plot(
            places,
            rate.cpu().clamp(min=LOWEST).numpy(),
            drawstyle="steps-post",
            color=COLORS[number % len(COLORS)],
            linestyle=styles[number // len(COLORS) % len(styles)],
            label=f"{name}: {averages[name]:.1%}",
        )
    axes.set(xscale="log", yscale="log", xlim=(places.min(), places.max()), ylim=(LOWEST, 1.05))
    axes.set(xlabel="false positives per image", ylabel="miss rate")
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0]
    axes.set_yticks(ticks, minor=False)
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_title("log-average over the shaded range", loc="left")
    if axes.lines:
        axes.legend(loc="lower left")
    return figure

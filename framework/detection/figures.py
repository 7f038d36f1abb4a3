"""Figures of oriented detections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import MultipleLocator
from torch import Tensor

from framework.detection.detection_samples import KeptDetections
from framework.detection.pictures import CLASS_COLORS, class_color
from framework.figures.style import STYLE, WIDTH, titled
from framework.utilities.packed_copy import copy_packed

SHOWN_SCORE = 0.3
"""Detections below this score are left out of pictures."""
LINE = 1.0
"""Width of outlines in points, which leaves small objects to be seen."""
ON_WHITE: list[AbstractPathEffect] = [withStroke(linewidth=LINE + 1, foreground="black")]
"""Border that makes a white line seen on white objects and on white paper."""


@rc_context(STYLE)
def detection_panels(kept: KeptDetections, class_names: Sequence[str]) -> Figure:
    """Draw images with detections above ``SHOWN_SCORE`` in color over the true objects.

    Args:
        kept: Images, detections and true objects.
        class_names: Class names by label.
    """
    # read one by one, each number on a GPU would be waited for
    kept = KeptDetections(**copy_packed(kept._asdict(), "cpu"))
    number = len(kept.images)
    columns = min(3, max(1, number))
    lines = max(1, math.ceil(number / columns))
    height, width = kept.images.shape[-2:]
    figure = titled(
        f"Detections with a score of at least {SHOWN_SCORE}",
        1.0 + lines * WIDTH / columns * height / width,
    )
    labels: set[int] = set()
    found, truth = kept.found, kept.truth
    for place in range(number):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.imshow(kept.images[place].permute(1, 2, 0).numpy())
        axes.set_axis_off()
        for box, hard in zip(truth[place]["boxes"], truth[place]["difficult"], strict=True):
            _outline(axes, box, "white", ":" if hard else "-").set_path_effects(ON_WHITE)
        fields = (found[place][name] for name in ("boxes", "scores", "labels"))
        for box, score, label in zip(*fields, strict=True):
            if score < SHOWN_SCORE:
                continue
            labels.add(int(label))
            _outline(axes, box, class_color(int(label)), "-")
            x, y = (float(v) for v in box[box[:, 1].argmin()])
            axes.text(
                x,
                y,
                f"{float(score):.2f}",
                fontsize=6,
                color="white",
                va="bottom",
                clip_on=True,
                bbox={"facecolor": class_color(int(label)), "pad": 0.6, "linewidth": 0},
            )
    handles = [Line2D([], [], color=class_color(k), label=class_names[k]) for k in sorted(labels)]
    true_object = Line2D([], [], color="white", label="true (dotted: difficult)")
    true_object.set(linewidth=LINE, path_effects=ON_WHITE)
    figure.legend(
        handles=[true_object, *handles], loc="outside lower center", ncols=min(6, 1 + len(handles))
    )
    return figure


def _outline(axes: Axes, box: Tensor, color: str, style: str) -> Polygon:
    corners = box.float().numpy() - 0.5
    outline = Polygon(corners, fill=False, edgecolor=color, linewidth=LINE, linestyle=style)
    axes.add_patch(outline)
    return outline


@rc_context(STYLE)
def precision_recall(values: Mapping[str, Any], class_names: Sequence[str]) -> Figure:
    """Draw precision over recall at an overlap of 0.5, one line per class.

    Args:
        values: Tensors ``recall_50`` and ``precision_50`` (C, R) and ``ap_50`` (C,), NaN for a
            class without objects.
        class_names: Class names by label.
    """
    figure = titled("Precision over recall", 4.2, 0.7 * WIDTH)
    axes = figure.add_subplot()
    # torchmetrics makes a scalar of a single class's precision
    ap = values["ap_50"].reshape(-1).cpu()
    recall, precision = (values[name].cpu() for name in ("recall_50", "precision_50"))
    styles = ("-", "--", ":")
    for label, name in enumerate(class_names):
        if bool(ap[label].isnan()):
            continue
        axes.plot(
            recall[label],
            precision[label],
            color=class_color(label),
            linestyle=styles[label // len(CLASS_COLORS) % len(styles)],
            label=f"{name}: {float(ap[label]):.3f}",
        )
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.set_title("overlap above 0.5; average precision", loc="left")
    if axes.lines:
        axes.legend(loc="lower left", ncols=1 + (len(axes.lines) > 8))
    return figure

"""Figures of oriented detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from framework.detection.detection_samples import KeptDetections
from framework.detection.panels import (
    ON_WHITE,
    SHOWN_SCORE,
    explain,
    image_panels,
    outline,
    true_line,
    write_score,
)
from framework.detection.pictures import CLASS_COLORS, class_color
from framework.figures.style import STYLE, WIDTH, titled
from framework.utilities.packed_copy import copy_packed


@rc_context(STYLE)
def detection_panels(kept: KeptDetections, class_names: Sequence[str]) -> Figure:
    """Draw images with detections above ``SHOWN_SCORE`` in color over the true objects.

    Args:
        kept: Images, detections and true objects.
        class_names: Class names by label.
    """
    # read one by one, each number on a GPU would be waited for
    kept = KeptDetections(**copy_packed(kept._asdict(), "cpu"))
    figure = image_panels(kept.images, f"Detections with a score of at least {SHOWN_SCORE}")
    labels: set[int] = set()
    for axes, found, truth in zip(figure.axes, kept.found, kept.truth, strict=True):
        for box, hard in zip(truth["boxes"], truth["difficult"], strict=True):
            outline(axes, box, "white", ":" if hard else "-").set_path_effects(ON_WHITE)
        fields = (found[name] for name in ("boxes", "scores", "labels"))
        for box, score, label in zip(*fields, strict=True):
            if score < SHOWN_SCORE:
                continue
            labels.add(int(label))
            color = class_color(int(label))
            outline(axes, box, color, "-")
            write_score(axes, box[box[:, 1].argmin()], score, color)
    handles = [Line2D([], [], color=class_color(k), label=class_names[k]) for k in sorted(labels)]
    explain(figure, [true_line("true (dotted: difficult)"), *handles])
    return figure


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

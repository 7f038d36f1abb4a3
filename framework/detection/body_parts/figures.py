"""Figures of people with the parts of their bodies."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from framework.detection.body_parts.association import above_score
from framework.detection.body_parts.people_samples import KeptPeople
from framework.detection.body_parts.pictures import LONE_COLOR, person_colors
from framework.detection.panels import (
    ON_WHITE,
    SHOWN_SCORE,
    explain,
    image_panels,
    outline,
    true_line,
    write_score,
)
from framework.figures.style import STYLE
from framework.utilities.packed_copy import copy_packed

EXPLAINED = "0.35"
"""Gray that stands for any color in a legend."""


@rc_context(STYLE)
def people_panels(kept: KeptPeople, class_names: Sequence[str]) -> Figure:
    """Draw images with each found person in a color of its own over the true people.

    A line joins the center of a part to that of its body. A part without a body, or whose body has
    a score below ``SHOWN_SCORE``, is dashed.

    Args:
        kept: Images with the found and the true people.
        class_names: Class names by label, the body's first.
    """
    # read one by one, each number on a GPU would be waited for
    kept = KeptPeople(**copy_packed(kept._asdict(), "cpu"))
    parts = ", ".join(dict.fromkeys(class_names[1:]))
    figure = image_panels(
        kept.images,
        f"People found with their parts ({parts}), scores of at least {SHOWN_SCORE}",
    )
    for axes, found, truth in zip(figure.axes, kept.found, kept.truth, strict=True):
        for box, ignored in zip(truth["boxes"], truth["ignored"], strict=True):
            outline(axes, _corners(box), "white", ":" if ignored else "-").set_path_effects(
                ON_WHITE
            )
        _draw_found(axes, found)
    handles = [
        true_line("true (dotted: ignored)"),
        Line2D([], [], color=EXPLAINED, label="found: a color each"),
        Line2D([], [], color=EXPLAINED, marker="o", markersize=4, label="part to its body"),
        Line2D([], [], color=LONE_COLOR, linestyle="--", label="part without a body"),
    ]
    explain(figure, handles)
    return figure


def _draw_found(axes: Axes, found: dict[str, Tensor]) -> None:
    found = above_score(found, SHOWN_SCORE)
    body, is_part = found["body"], found["labels"] > 0
    joined = body >= 0
    colors = person_colors(found["labels"], body)
    centers = (found["boxes"][:, :2] + found["boxes"][:, 2:]) / 2 - 0.5
    for row, (box, color) in enumerate(zip(found["boxes"], colors, strict=True)):
        outline(axes, _corners(box), color, "--" if is_part[row] and not joined[row] else "-")
        if not is_part[row]:
            write_score(axes, box[:2], found["scores"][row], color)
        elif joined[row]:
            (x0, y0), (x1, y1) = centers[row].tolist(), centers[body[row]].tolist()
            axes.plot([x0, x1], [y0, y1], color=color, linewidth=1, marker="o", markersize=2)
    # lines to bodies that leave the image must not move its borders
    height, width = axes.images[0].get_size()
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _corners(box: Tensor) -> Tensor:
    """Return the corners (4, 2) of a box (4,)."""
    return box[[0, 1, 2, 1, 2, 3, 0, 3]].view(4, 2)

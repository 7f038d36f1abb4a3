"""The samples that the steps of a run move most in opposite directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.figures.score_table import Table
from framework.figures.style import COLORS, STYLE, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_IMAGES = 12
"""Images that are shown of each group."""
MEANING = (
    "Groups that swap from step to step share a strong feature and need opposite outputs: what "
    "lowers the loss of one raises\nthat of the other. They are such a pair where the overlap is "
    "near 100% and the cosine near \N{MINUS SIGN}1."
)
UP, DOWN, ALL = COLORS[1], COLORS[0], "0.6"


@dataclass
class SignalPicture:
    """What is drawn of two groups of samples.

    Args:
        steps: (T,) numbers of the steps after which the losses are known, to the one that moved
            them.
        losses: (T, N) losses of all samples.
        up: (k,) places of the samples whose loss rose most.
        down: (k,) places of those whose loss fell most.
        overlap: Share of the members that the step before had in the other group, or NaN.
        cosine: Cosine between the gradients of both groups, or NaN.
        images: Images (2, m, H, W) or (2, m, H, W, 3) in [0, 1] of the first m of each group, or
            None.
        labels: (2, k) classes of the members, or None.
        class_names: Names of the classes, or None.
    """

    steps: np.ndarray
    losses: np.ndarray
    up: np.ndarray
    down: np.ndarray
    overlap: float = float("nan")
    cosine: float = float("nan")
    images: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None


def opposing_signals(picture: SignalPicture) -> Figure:
    """Draw the images, the classes and the losses of both groups.

    Args:
        picture: What is drawn.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        return _drawn(picture)


def as_pictures(images: np.ndarray) -> np.ndarray | None:
    """Return the images of both groups for ``SignalPicture``, or None where they are no pictures.

    Where values lie outside of [0, 1] they are stretched from the lowest to the highest one.

    Args:
        images: (2 k, C, H, W), those of the group that went up first.

    Example:
        >>> as_pictures(np.zeros((6, 1, 8, 8))).shape
        (2, 3, 8, 8)
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < 2:
        return None
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        images = (images - low) / max(high - low, 1e-12)
    halves = images.reshape(2, -1, *images.shape[1:])[:, :MOST_IMAGES]
    return halves[:, :, 0] if images.shape[1] == 1 else np.moveaxis(halves, 2, -1)


def member_table(picture: SignalPicture, index: Sequence[int]) -> Table:
    """Return the samples of both groups, those that changed most first.

    Args:
        picture: What is drawn of them.
        index: (N,) positions of all samples in the training set.
    """
    before, after = picture.losses[-2:]
    rows: list[tuple[str | int | float, ...]] = []
    for row, (name, group, _) in enumerate(_groups(picture)):
        for number, place in enumerate(group):
            label = "" if picture.labels is None else _name(picture, picture.labels[row][number])
            losses = float(before[place]), float(after[place])
            rows.append((name.partition(":")[0], index[place], label, *losses))
    columns = ("group", "index", "class", "loss before", "loss after")
    return Table(f"Opposing signals in step {picture.steps[-1]:,}", columns, rows)


def _drawn(picture: SignalPicture) -> Figure:
    shown = picture.images is not None
    known = picture.labels is not None
    figure = titled(f"Opposing signals in step {picture.steps[-1]:,}", 6.0 if shown else 3.8)
    parts: Any = figure.subfigures(
        2 if shown else 1, 1, squeeze=False, height_ratios=(4, 5)[: 1 + shown]
    )[:, 0]
    columns = 2 if known else 1
    lower = parts[-1].subplots(1, columns, squeeze=False, width_ratios=(3, 2)[:columns])[0]
    _draw_losses(lower[0], picture)
    if known:
        _draw_classes(lower[1], picture)
    if shown:
        _draw_images(parts[0], picture)
    figure.supxlabel(MEANING, fontsize=8, color="0.35", x=0.01, ha="left")
    return figure


def _groups(picture: SignalPicture) -> list[tuple[str, np.ndarray, str]]:
    many = len(picture.up)
    return [
        (f"G+: the {many} samples whose loss rose most", picture.up, UP),
        (f"G\N{MINUS SIGN}: the {many} samples whose loss fell most", picture.down, DOWN),
    ]


def _draw_images(figure: Any, picture: SignalPicture) -> None:
    assert picture.images is not None
    for row, (part, (title, group, color)) in enumerate(
        zip(figure.subfigures(1, 2), _groups(picture), strict=True)
    ):
        part.suptitle(title, fontsize=10, color=color)
        columns = max(1, (len(picture.images[row]) + 1) // 2)
        places = list(part.subplots(2, columns, squeeze=False).flat)
        for axes in places:
            axes.set_axis_off()
        for number, (axes, image) in enumerate(zip(places, picture.images[row], strict=False)):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            before, after = picture.losses[-2:, group[number]]
            name = "" if picture.labels is None else _name(picture, picture.labels[row][number])
            change = _signed(after - before, "+.2g")
            # no title: those are what the caption of the figure says
            said = f"{name}\n{change}" if name else change
            axes.text(0.5, 1.03, said, transform=axes.transAxes, fontsize=7, ha="center")


def _draw_losses(axes: Axes, picture: SignalPicture) -> None:
    from matplotlib.ticker import MaxNLocator

    many = picture.losses.shape[1]
    lines = [(name.partition(":")[0], group, color) for name, group, color in _groups(picture)]
    # nothing is known of steps between looks
    gaps = np.flatnonzero(np.diff(picture.steps) > 1) + 1
    steps = np.insert(picture.steps.astype(float), gaps, np.nan)
    for label, group, color in [*lines, (f"all {many:,}", np.arange(many), ALL)]:
        mean = np.insert(picture.losses[:, group].mean(1), gaps, np.nan)
        axes.plot(steps, mean, color=color, marker=".", label=label)
    axes.set_title("Mean loss of these samples", loc="left")
    axes.set_xlabel(_explained(picture))
    low, high = axes.dataLim.intervaly
    low = min(0.0, low)
    axes.set_ylim(low, high + 0.05 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    # above the lines, beside the title
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.99), ncols=3, fontsize=8, borderpad=0.2)


def _explained(picture: SignalPicture) -> str:
    said = ["optimizer step"]
    if np.isfinite(picture.overlap):
        said.append(f"overlap: {picture.overlap:.0%} were in the other group one step earlier")
    if np.isfinite(picture.cosine):
        said.append(f"cosine of the groups' gradients {_signed(picture.cosine, '.2f')}")
    return "\n".join(said)


def _draw_classes(axes: Axes, picture: SignalPicture) -> None:
    from matplotlib.ticker import MaxNLocator

    assert picture.labels is not None
    classes = np.unique(picture.labels)
    counts = np.array([[(row == c).sum() for c in classes] for row in picture.labels])
    # the commonest first, and no more than can be read
    order = np.argsort(-counts.sum(0), kind="stable")[:12]
    place = np.arange(len(order))
    # a class of one group alone has its bar at its name
    apart = 0.2 * (counts[:, order] > 0).all(0)
    for row, (name, _, color) in enumerate(_groups(picture)):
        axes.barh(
            place + (2 * row - 1) * apart,
            counts[row, order],
            height=0.38,
            color=color,
            label=name.partition(":")[0],
        )
    axes.set_yticks(place, [_name(picture, classes[k]) for k in order])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title("Their classes", loc="left")
    axes.set_xlabel("samples")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", fontsize=8)


def _signed(value: float, form: str) -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _name(picture: SignalPicture, label: int) -> str:
    names = picture.class_names
    if label < 0:
        return "unlabeled"
    known = names is not None and label < len(names)
    return str(names[label]) if known else str(label)  # type: ignore[index]
